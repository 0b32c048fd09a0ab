"""A vector index finds what comparing all masks finds."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from maft.errors import UserError
from maft.index.index import Index
from maft.index.search import built, vector_index

pytest.importorskip("faiss")


@pytest.fixture
def folder(index_folder, tmp_path):
    return shutil.copytree(index_folder, tmp_path / "index")


@pytest.fixture
def index(folder):
    return Index(folder)


def clustered(masks, width=64, clusters=200):
    """Unit vectors as masks of ``clusters`` kinds of objects have them."""
    centres = torch.randn(clusters, width)
    kinds = torch.randint(clusters, (masks,))
    return F.normalize(centres[kinds] + 0.6 * torch.randn(masks, width), dim=-1)


def test_words_find_the_same_masks_with_and_without_it(index, folder):
    exact = index.ask(["tree", "bear"], not_words=["lake"], top=15)
    assert index.ask(["tree", "bear"], not_words=["lake"], top=15, engine="faiss") == exact
    assert [path.suffix for path in (folder / "search").iterdir()] == [".faiss"]
    # Read from the file this time.
    assert Index(folder).ask(["tree", "bear"], not_words=["lake"], top=15, engine="faiss") == exact


def test_masks_find_the_same_masks_with_and_without_it(index):
    for place in ((0, 0), (3, 7)):
        assert index.nearest(place, engine="faiss") == index.nearest(place)


def test_candidates_are_ranked_by_the_scores_of_the_model_itself(index, monkeypatch):
    monkeypatch.setattr("maft.index.index.candidates", lambda top: 8)
    all_scores = {(one.image, one.mask): one.score for one in index.ask(["tree"], top=1000)}
    found = index.ask(["tree"], top=5, engine="faiss")
    assert [one.score for one in found] == [all_scores[one.image, one.mask] for one in found]


def test_a_large_one_finds_nearly_all_that_comparing_all_finds():
    vectors = clustered(20_000)
    index = built(lambda: vectors.split(3000), len(vectors), most_flat=1000)
    assert index.nlist > 100 and index.nprobe < index.nlist / 10
    queries = vectors[torch.randperm(len(vectors))[:100]]
    _, found = index.search(queries.numpy(), 10)
    expected = (queries @ vectors.T).topk(10).indices.numpy()
    recall = sum(len(set(a) & set(b)) for a, b in zip(found, expected)) / expected.size
    assert recall > 0.95


def test_a_small_one_compares_all():
    vectors = clustered(500)
    index = built(lambda: vectors.split(200), len(vectors))
    _, found = index.search(vectors[:20].numpy(), 5)
    assert found.tolist() == (vectors[:20] @ vectors.T).topk(5).indices.tolist()


def test_a_damaged_one_is_said(index, folder):
    vector_index(index.stored)
    path = next((folder / "search").iterdir())
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="faiss is damaged .*delete it, and it is built again"):
        index.ask(["tree"], engine="faiss")
    index.stored.contents.__dict__["masks"] += 1
    path.unlink()
    with pytest.raises(UserError, match="holds 200 masks, not 201"):
        [vector_index(index.stored) for _ in range(2)]


def test_one_of_other_embeddings_is_said(index):
    import faiss

    path = Path(vector_index(index.stored) and next((index.stored.folder / "search").iterdir()))
    other = faiss.IndexFlatIP(5)
    other.add(torch.ones(len(index.rows), 5).numpy())
    faiss.write_index(other, str(path))
    with pytest.raises(UserError, match="faiss is damaged .its embeddings are 5 wide, not .*: delete it"):
        index.ask(["tree"], engine="faiss")


def test_one_of_an_earlier_index_at_its_place_is_built_again(made, predictor, scenes, tmp_path):
    files = [shutil.copy(scene, tmp_path / f"{place}.png") for place, scene in enumerate(scenes[:2])]
    folder = made(predictor, list(map(str, files)), tmp_path / "index")
    vector_index(Index(folder).stored)
    before = [path.name for path in (folder / "search").iterdir()]
    shutil.copy(scenes[5], files[0])
    made(predictor, list(map(str, files)), folder)
    index = Index(folder)
    assert index.nearest((0, 0), engine="faiss") == index.nearest((0, 0))
    after = [path.name for path in (folder / "search").iterdir()]
    assert len(after) == 1 and after != before


def test_without_faiss_it_says_what_to_install(index, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r'needs faiss: run pip install "maft\[search\]"'):
        index.ask(["tree"], engine="faiss")
    assert index.ask(["tree"])
