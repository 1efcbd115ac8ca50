"""The cameras of the rendered collection: world to camera space, camera space to pixels.

Camera space is that of a Kinect v2: right-handed, in meters, x to the camera's left, y up, z away from it. Images are
not mirrored, so column numbers decrease as x grows, and the left arm of a person who faces the camera is on the right.
"""

from dataclasses import dataclass

import numpy as np

from unialign.stages.demo.body import Floats, turn_x, turn_y, turn_z

# Azimuths of cameras 1, 2, 3 around the performer, in degrees to the performer's left.
AZIMUTHS = (32.0, -32.0, 0.0)


@dataclass(frozen=True)
class Camera:
    """One camera that looks at the performer.

    azimuth, roll: degrees. distance, height: meters from the performer's position and above the floor. aim: height of
        the point it looks at. focal: in pixels. size: (height, width) of the image. jitter: `(T, 2)` shift of the image
        in pixels (down, right), as in a hand-held camera.
    """

    azimuth: float
    distance: float
    height: float
    aim: float
    roll: float
    focal: float
    size: tuple[int, int]
    jitter: Floats

    @property
    def rotation(self) -> Floats:
        """World directions to camera directions, `(3, 3)`."""
        down = np.degrees(np.arctan2(self.height - self.aim, self.distance))
        # A camera at azimuth 0 stands at +z and looks to -z; its left is the world's -x.
        outward = turn_y(np.array([self.azimuth + 180.0]))[0]
        tipped = turn_x(np.array([down]))[0] @ turn_z(np.array([self.roll]))[0]
        return np.asarray((outward @ tipped).T)

    @property
    def position(self) -> Floats:
        """World position of the camera, `(3,)`."""
        turned = turn_y(np.array([self.azimuth]))[0]
        return np.asarray(turned @ np.array([0.0, self.height, self.distance]))

    def to_camera(self, points: Floats) -> Floats:
        """Camera-space positions of world `points (..., 3)`."""
        return np.asarray((points - self.position) @ self.rotation.T)

    def centres(self) -> Floats:
        """Row and column of the optical axis in every frame, `(T, 2)`; integers are pixel centers."""
        return (np.array(self.size) - 1) / 2 + self.jitter

    def project(self, points: Floats) -> Floats:
        """Rows and columns `(T, V, 2)` of camera-space `points (T, V, 3)`."""
        across = self.focal * points[..., :2] / points[..., 2:]
        return self.centres()[:, None] - across[..., ::-1]
