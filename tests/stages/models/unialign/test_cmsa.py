"""Both candidates and the baseline against slow, literal float64 loops."""

import math

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unialign.stages.models.unialign.cmsa import CMSA, Features, Fusion, masked_softmax, token_similarity

B, NV, NP, K, L, D = 3, 4, 5, 2, 6, 8
TAU = 0.3


def _unit(*shape: int) -> Tensor:
    return functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def _features(pose: bool, text: bool) -> Features:
    """Clip 0 has all pose tokens, clip 1 two of them, clip 2 none."""
    torch.manual_seed(1)
    mask = torch.zeros(B, NP, dtype=torch.bool)
    mask[0], mask[1, :2] = True, True
    return Features(
        video_tokens=_unit(B, NV, D),
        video=_unit(B, D),
        pose_tokens=_unit(B, NP, D) if pose else None,
        pose=_unit(B, D) if pose else None,
        pose_mask=mask if pose else None,
        has_pose=mask.any(dim=1) if pose else None,
        text=_unit(K, L, D) if text else None,
    )


def _module(name: str, pose: bool, text: bool, learned: bool = True) -> nn.Module:
    torch.manual_seed(2)
    return (
        CMSA[name](width=D, num_classes=L, pose=pose, text=text, learned=learned).double().eval().requires_grad_(False)
    )


def _softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def _literal_similarity(first: list[Tensor], w: list[float], second: list[Tensor], u: list[float]) -> float:
    forward = sum(w[n] * max(float(a @ b) for b in second) for n, a in enumerate(first))
    backward = sum(u[m] * max(float(a @ b) for a in first) for m, b in enumerate(second))
    return 0.5 * (forward + backward)


def _literal_fusion(fusion: Fusion, vectors: list[Tensor], beta: list[float]) -> Tensor:
    fused = torch.zeros(D, dtype=torch.float64)
    for weight, linear, vector in zip(beta, fusion.maps, vectors, strict=True):
        fused = fused + weight * (linear.weight @ vector)
    return fusion.head(fused)


class LiteralA:
    """Candidate A, clip by clip and token by token."""

    def __init__(self, module: nn.Module, features: Features, learned: bool) -> None:
        self.module, self.features, self.learned = module, features, learned

    def tokens(self, name: str, index: int) -> tuple[list[Tensor], list[float]]:
        f = self.features
        if name == "video":
            rows = list(f.video_tokens[index])
        elif name == "pose":
            rows = [f.pose_tokens[index, n] for n in range(NP) if bool(f.pose_mask[index, n])]
        else:
            rows = [f.text[k, index] for k in range(K)]
        scores = [float(self.module.scorers[name](row)) if self.learned else 0.0 for row in rows]
        return rows, _softmax(scores)

    def s(self, a: str, i: int, b: str, j: int) -> float:
        return _literal_similarity(*self.tokens(a, i), *self.tokens(b, j))

    def alpha(self, i: int) -> list[float]:
        if self.features.pose is None:
            return [1.0]
        if not bool(self.features.has_pose[i]):
            return [1.0, 0.0]
        if not self.learned:
            return [0.5, 0.5]
        both = torch.cat([self.features.video[i], self.features.pose[i]])
        return _softmax(self.module.modality_scorer(both).tolist())


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("pose", "text"), [(True, True), (False, True), (True, False)])
def test_candidate_a_equals_literal_loops(pose: bool, text: bool, learned: bool) -> None:
    module, features = _module("A", pose, text, learned), _features(pose, text)
    outputs = module(features, torch.tensor(TAU, dtype=torch.float64))
    literal = LiteralA(module, features, learned)
    for i in range(B):
        alpha = literal.alpha(i)
        assert outputs["importance"][i].tolist() == pytest.approx(alpha)
        assert outputs["token_importance_video"][i].tolist() == pytest.approx(literal.tokens("video", i)[1])
        present = pose and bool(features.has_pose[i])
        if present:
            weights = outputs["token_importance_pose"][i][features.pose_mask[i]].tolist()
            assert weights == pytest.approx(literal.tokens("pose", i)[1])
        if text:
            for c in range(L):
                z = alpha[0] * literal.s("video", i, "text", c)
                z += alpha[1] * literal.s("pose", i, "text", c) if present else 0.0
                assert float(outputs["align_logits"][i, c]) == pytest.approx(z / TAU, abs=1e-9)
        else:
            z = _literal_fusion(module.fusion, [features.video[i], features.pose[i]], alpha)
            assert torch.allclose(outputs["align_logits"][i], z)
        for j in range(B):
            if pose and bool(features.has_pose[j]):
                s = literal.s("video", i, "pose", j)
                assert float(outputs["similarity_vp"][i, j]) == pytest.approx(s, abs=1e-9)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(("pose", "text"), [(True, True), (False, True), (True, False)])
def test_candidate_b_equals_literal_loops(pose: bool, text: bool, learned: bool) -> None:
    module, features = _module("B", pose, text, learned), _features(pose, text)
    outputs = module(features, torch.tensor(TAU, dtype=torch.float64))
    names = ["video"] + ["pose"] * pose + ["text"] * text
    assert list(module.importance_names) == names
    vectors: dict[str, list[Tensor]] = {"video": list(features.video)}
    if pose:
        vectors["pose"] = list(features.pose)
    if text:
        classes = []
        for c in range(L):
            mean = sum((features.text[k, c] for k in range(1, K)), features.text[0, c]) / K
            classes.append(mean / mean.norm())
        vectors["text"] = []
        for i in range(B):
            attention = _softmax([float(features.video[i] @ t) / TAU for t in classes])
            mixed = sum((a * t for a, t in zip(attention, classes, strict=True)), torch.zeros(D, dtype=torch.float64))
            vectors["text"].append(mixed / mixed.norm())
    for i in range(B):
        present = [name for name in names if name != "pose" or bool(features.has_pose[i])]
        agreement = [
            sum(float(vectors[m][i] @ vectors[o][i]) for o in present if o != m) / TAU if learned else 0.0
            for m in present
        ]
        found = dict(zip(present, _softmax(agreement), strict=True))
        beta = [found.get(name, 0.0) for name in names]
        assert outputs["importance"][i].tolist() == pytest.approx(beta)
        logits = _literal_fusion(module.fusion, [vectors[name][i] for name in names], beta)
        assert torch.allclose(outputs["align_logits"][i], logits)
    pairs = {f"similarity_{a[0]}{b[0]}": (a, b) for n, a in enumerate(names) for b in names[n + 1 :]}
    assert {key for key in outputs if key.startswith("similarity_")} == set(pairs)
    for key, (a, b) in pairs.items():
        for i in range(B):
            for j in range(B):
                assert float(outputs[key][i, j]) == pytest.approx(float(vectors[a][i] @ vectors[b][j]))


@pytest.mark.parametrize(("pose", "text"), [(True, True), (False, True), (True, False)])
def test_cmsa_off_is_the_mean_pooled_cosine(pose: bool, text: bool) -> None:
    module, features = _module("off", pose, text), _features(pose, text)
    outputs = module(features, torch.tensor(TAU, dtype=torch.float64))
    for i in range(B):
        present = [features.video[i]] + ([features.pose[i]] if pose and bool(features.has_pose[i]) else [])
        if text:
            for c in range(L):
                mean = features.text[:, c].mean(dim=0)
                z = sum(float(vector @ mean / mean.norm()) for vector in present) / len(present) / TAU
                assert float(outputs["align_logits"][i, c]) == pytest.approx(z)
        else:
            beta = [0.5, 0.5] if len(present) == 2 else [1.0, 0.0]
            z = _literal_fusion(module.fusion, [features.video[i], features.pose[i]], beta)
            assert torch.allclose(outputs["align_logits"][i], z)
        if pose:
            expected = [float(features.video[i] @ other) for other in features.pose]
            assert outputs["similarity_vp"][i].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", CMSA)
@pytest.mark.parametrize(("pose", "text"), [(True, True), (False, True), (True, False)])
def test_all_importances_sum_to_one(name: str, pose: bool, text: bool) -> None:
    module, features = _module(name, pose, text), _features(pose, text)
    outputs = module(features, torch.tensor(TAU, dtype=torch.float64))
    keys = [key for key in outputs if "importance" in key]
    assert len(keys) == 2 + pose + text
    for key in keys:
        assert bool((outputs[key] >= 0).all())
        assert torch.allclose(outputs[key].sum(dim=-1), torch.ones((), dtype=torch.float64))
    assert outputs["importance"].shape == (B, len(module.importance_names))
    if pose:
        assert float(outputs["importance"][2, module.importance_names.index("pose")]) == 0.0
        assert outputs["token_importance_pose"][1, 2:].tolist() == [0.0] * 3


@pytest.mark.parametrize("name", CMSA)
def test_padding_and_absent_poses_change_nothing_but_the_unused_numbers(name: str) -> None:
    module, features = _module(name, True, True), _features(True, True)
    before = module(features, torch.tensor(TAU, dtype=torch.float64))
    assert features.pose_tokens is not None
    assert features.pose_mask is not None
    features.pose_tokens[~features.pose_mask] = _unit(1, D)[0]
    after = module(features, torch.tensor(TAU, dtype=torch.float64))
    for key, value in after.items():
        if key == "similarity_vp":
            value, before[key] = value[:, :2], before[key][:, :2]
        if key == "token_importance_pose":
            value, before[key] = value[:2], before[key][:2]
        assert torch.allclose(value, before[key]), key


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 4), m=st.integers(1, 4))
def test_token_similarity_is_symmetric_bounded_and_one_for_equal_sets(seed: int, n: int, m: int) -> None:
    torch.manual_seed(seed)
    first, second = _unit(2, n, D), _unit(3, m, D)
    w = torch.rand(2, n, dtype=torch.float64).softmax(-1)
    u = torch.rand(3, m, dtype=torch.float64).softmax(-1)
    similarity = token_similarity(first, w, second, u)
    assert torch.allclose(similarity, token_similarity(second, u, first, w).T)
    assert bool((similarity.abs() <= 1 + 1e-9).all())
    assert torch.allclose(token_similarity(first, w, first, w).diagonal(), torch.ones(2, dtype=torch.float64))


def test_masked_softmax_of_an_empty_row_and_its_gradient_are_finite() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[True, False, True], [False, False, False]]))
    weights.square().sum().backward()
    assert float(weights[0, 1].detach()) == 0.0
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2))
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())
