import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.stages.demo.figure import Part
from unialign.stages.demo.shading import Lamp, Lens, SeenPart, draw_parts

LENS = Lens(focal=100.0, centres=np.full((1, 2), 31.5), size=(64, 64))
LAMP = Lamp(np.array([0.0, 0.8, -0.6]), np.ones(3), np.full(3, 0.3), np.array([0.0, 1.0, 0.0]))
RED, GREEN = (0.9, 0.0, 0.0), (0.0, 0.9, 0.0)


def cone(start, end, radii, colour=RED, thin=1.0, axis=None) -> SeenPart:
    first, last = np.array([start], dtype=np.float32), np.array([end], dtype=np.float32)
    across = None if axis is None else np.array([axis], dtype=np.float32)
    return SeenPart(first, last - first, across, Part(first, last, radii, colour, thin, across))


def mask(*parts: SeenPart) -> np.ndarray:
    where, _ = draw_parts(parts, LENS, LAMP)
    drawn = np.zeros(64 * 64, dtype=bool)
    drawn[where] = True
    return drawn.reshape(64, 64)


def image(*parts: SeenPart) -> np.ndarray:
    where, colours = draw_parts(parts, LENS, LAMP)
    picture = np.zeros((64 * 64, 3))
    picture[where] = colours
    return picture.reshape(64, 64, 3)


point = st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(2.0, 3.0))


@settings(max_examples=15, deadline=None)
@given(point, point, st.floats(0.05, 0.3), st.floats(0.05, 0.3), st.floats(0.5, 1.0))
def test_cone_covers_the_pixels_of_its_spheres(start, end, first, last, thin):
    """Against brute force: a ray meets the cone where it passes one of very many spheres closely enough."""
    part = cone(start, end, (first, last), thin=thin, axis=(0.6, 0.0, 0.8))
    rows, columns = np.mgrid[:64, :64]
    rays = np.stack([(31.5 - columns) / 100, (31.5 - rows) / 100, np.ones((64, 64))], axis=-1)
    axis = np.array([0.6, 0.0, 0.8])
    stretch = np.eye(3) + (1 / thin - 1) * np.outer(axis, axis)
    rays = rays @ stretch
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    gap = np.full((64, 64), np.inf)
    for share in np.linspace(0, 1, 200):
        centre = stretch @ (np.array(start) * (1 - share) + np.array(end) * share)
        away = np.linalg.norm(centre - (rays @ centre)[..., None] * rays, axis=-1)
        gap = np.minimum(gap, away - (first * (1 - share) + last * share))
    drawn = mask(part)
    sure = np.abs(gap) > 0.004
    np.testing.assert_array_equal(drawn[sure], (gap < 0)[sure])


def test_nearer_part_hides_the_farther_whatever_the_order():
    near = cone((0, 0, 2.0), (0.01, 0, 2.0), (0.1, 0.1), RED)
    far = cone((0, 0, 3.0), (0.01, 0, 3.0), (0.4, 0.4), GREEN)
    for parts in ((near, far), (far, near)):
        picture = image(*parts)
        assert picture[32, 32].argmax() == 0
        assert picture[32, 22].argmax() == 1


def test_limb_that_points_at_the_camera_shows_its_near_end():
    arm = cone((0.0, 0, 3.0), (0.0, 0, 2.0), (0.05, 0.15))
    assert mask(arm).sum() > 1.8 * mask(cone((0, 0, 3.0), (0, 0.001, 3.0), (0.15, 0.15))).sum()


def test_side_towards_the_lamp_is_brighter():
    picture = image(cone((0, 0, 2.0), (0.001, 0, 2.0), (0.3, 0.3), (0.5, 0.5, 0.5)))
    assert picture[22, 32].sum() > 1.5 * picture[42, 32].sum() > 0


def test_thin_part_is_narrow_along_its_axis():
    drawn = mask(cone((0, -0.001, 2.0), (0, 0, 2.0), (0.3, 0.3), thin=0.5, axis=(1.0, 0.0, 0.0)))
    wide, high = drawn.any(axis=0).sum(), drawn.any(axis=1).sum()
    assert 0.42 < wide / high < 0.58


def test_part_outside_the_image_draws_nothing():
    assert not mask(cone((30.0, 0, 2.0), (30.1, 0, 2.0), (0.1, 0.1))).any()
