"""Which recordings of a patient answer together."""

from drawn import manifest_of

from echolung.embedding.recordings import HeldClips, Part, Recordings


def test_a_second_recording_of_a_view_answers_for_itself_with_the_first_of_the_other() -> None:
    names = ["s/four", "s/four-again", "s/two", "s/of-another", "s/unknown"]
    table = manifest_of(names, ["1", "1", "1", "2", "1"], view=["A4C", "A4C", "A2C", "A4C", None])
    recordings = Recordings([Part(table, HeldClips({}))])
    assert recordings.views_of("s/four", ["A4C", "A2C"]) == ["s/four", "s/two"]
    assert recordings.views_of("s/four-again", ["A4C", "A2C"]) == ["s/four-again", "s/two"]
    assert recordings.views_of("s/two", ["A4C", "A2C"]) == ["s/four", "s/two"]
    for alone in ("s/of-another", "s/unknown"):
        assert recordings.views_of(alone, ["A4C", "A2C"]) == [alone]
