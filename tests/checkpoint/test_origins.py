from maft.checkpoint.origins import origins


def test_each_part_says_where_its_tensors_came_from():
    names = ["clip.a", "clip.b", "proposer.a", "proposer.b", "classifier.a", "void.a", "sam.a"]
    given = {"clip.b": "host.pth", "proposer.a": "host.pth", "proposer.b": "head.pth"}
    text = origins(names, given, clip="of the shipped tiny_vit", brought=["sam"], started=["sam", "classifier"])
    assert text == (
        "Weights: clip: 1 tensor of the shipped tiny_vit, 1 tensor from host.pth; proposer: 1 tensor from host.pth, "
        "1 tensor from head.pth; classifier: 1 tensor copied from CLIP; void: 1 tensor untrained; "
        "sam: 1 tensor pretrained, as MODEL.SAM names them."
    )


def test_a_file_goes_before_what_a_part_would_start_from():
    text = origins(["classifier.a", "classifier.b"], {"classifier.a": "x", "classifier.b": "x"}, clip="", brought=[],
                   started=["classifier"])  # fmt: skip
    assert text == "Weights: classifier: 2 tensors from x."


def test_a_part_below_one_may_have_weights_of_its_own():
    text = origins(["classifier.clip.a", "classifier.clipped"], {}, clip="", brought=[], started=["classifier.clip"])
    assert text == "Weights: classifier: 1 tensor pretrained, as MODEL.CLASSIFIER names them, 1 tensor untrained."
