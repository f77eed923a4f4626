"""Pictures of where time goes."""

from pathlib import Path

from bench.flame import titled

RESULTS = Path(__file__).parents[2] / "bench" / "results"


def test_a_picture_is_named_after_its_work() -> None:
    """py-spy writes its own command there, with the paths of the machine on which it ran."""
    made = '<svg><text id="title" x="50%">/somewhere/bin/py-spy record --pid 1</text><text id="details">a</text></svg>'
    assert titled(made, "single") == '<svg><text id="title" x="50%">single</text><text id="details">a</text></svg>'


def test_the_pictures_beside_the_report() -> None:
    pictures = list(RESULTS.glob("flame-*.svg"))
    assert pictures
    for picture in pictures:
        assert "py-spy record" not in picture.read_text(), picture.name
