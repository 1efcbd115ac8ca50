"""A small UTD-MHAD of generated files, and its caches, all made by the program itself."""

from pathlib import Path

import numpy as np
from scipy.io import savemat
from typer.testing import CliRunner

from unialign.cli import app
from unialign.stages.skeleton_layouts import UTD_20

# A person who stands: x, y, z in meters of the camera's space, in the order of "utd-20".
STANDING = np.array(
    [
        *((0, 0.6, 2.5), (0, 0.4, 2.5), (0, 0.1, 2.5), (0, 0, 2.5)),
        *((-0.2, 0.4, 2.5), (-0.25, 0.2, 2.5), (-0.3, 0, 2.5), (-0.3, -0.1, 2.5)),
        *((0.2, 0.4, 2.5), (0.25, 0.2, 2.5), (0.3, 0, 2.5), (0.3, -0.1, 2.5)),
        *((-0.1, -0.1, 2.5), (-0.1, -0.5, 2.5), (-0.1, -0.9, 2.5), (-0.1, -0.9, 2.4)),
        *((0.1, -0.1, 2.5), (0.1, -0.5, 2.5), (0.1, -0.9, 2.5), (0.1, -0.9, 2.4)),
    ]
)


# Seen in training under "zero-shot-1", and unseen.
SEEN, UNSEEN = (1, 2, 3), (5, 11)


def write_files(root: Path) -> Path:
    """A file of subjects 1 and 2 for each of five actions, 10 to 14 frames; the action decides how joints swing."""
    root.mkdir(parents=True)
    for action in SEEN + UNSEEN:
        for subject in (1, 2):
            generator = np.random.default_rng(100 * action + subject)
            time = np.arange(10 + action % 5)[:, None, None]
            swing = 0.15 * np.sin(time * action / 9 + np.arange(20)[:, None] / action)
            frames = STANDING + swing * np.eye(3)[action % 3] + generator.normal(0, 0.004, (len(time), 20, 3))
            savemat(root / f"a{action}_s{subject}_t1_skeleton.mat", {"d_skel": frames.transpose(1, 2, 0)})
    assert len(STANDING) == len(UTD_20.joints)
    return root


def called(*arguments: object) -> str:
    """What a command of the program printed on standard output; it must succeed."""
    shown = CliRunner().invoke(app, [str(each) for each in arguments])
    assert shown.exit_code == 0, shown.output
    return shown.stdout
