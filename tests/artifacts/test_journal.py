"""A journal gives back what was finished: whole groups, of the same question, whoever wrote them and whenever it was killed."""

import random
from pathlib import Path

import pytest
from ptqflow.artifacts.journal import Journal

ASKED = {"settings": {"temperature": 0.6}, "inputs": {"checkpoint": "0" * 64}}
RESULTS = {n: {"tokens": list(range(n % 7)), "logprob": -n / 3, "reason": "stop"} for n in range(60)}


def journal(folder: Path, requests: str = "all", **changes: object) -> Journal:
    opened = Journal(folder, ASKED | changes)
    opened.open(requests)
    return opened


def written(folder: Path, groups: int = 20) -> Path:
    """The file of a job that kept RESULTS in groups of three, and was killed."""
    kept = journal(folder)
    for first in range(0, 3 * groups, 3):
        kept.add({n: RESULTS[n] for n in range(first, first + 3)})
    (path,) = set(folder.iterdir())
    return path


def test_what_was_kept_is_read_as_it_was_written(tmp_path: Path) -> None:
    written(tmp_path / "parts")
    assert journal(tmp_path / "parts").results == RESULTS


def test_a_file_torn_anywhere_gives_its_whole_groups_and_no_other(tmp_path: Path) -> None:
    path = written(tmp_path / "parts")
    data, found = path.read_bytes(), []
    for size in sorted({0, 1, 9, len(data) - 1, *random.Random(0).sample(range(len(data)), 60)}):
        path.write_bytes(data[:size])
        results = journal(tmp_path / "parts").results
        assert results == {n: RESULTS[n] for n in range(len(results))}
        assert len(results) % 3 == 0
        found.append(len(results))
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 57)


def test_damage_is_never_read(tmp_path: Path) -> None:
    path = written(tmp_path / "parts")
    data = path.read_bytes()
    for place in random.Random(0).sample(range(len(data)), 60):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert journal(tmp_path / "parts").results.items() <= RESULTS.items()


OTHERS = [{"requests": "others"}, {"settings": {"temperature": 0.7}}, {"inputs": {}}, {"code": "1"}]


@pytest.mark.parametrize("other", OTHERS, ids=lambda other: next(iter(other)))
def test_what_another_question_left_is_not_taken_and_not_removed(tmp_path: Path, other: dict[str, object]) -> None:
    path = written(tmp_path / "parts")
    asking = journal(tmp_path / "parts", **other)  # type: ignore[arg-type]
    assert asking.results == {}
    asking.add({0: "mine"})
    asking.remove()
    assert list((tmp_path / "parts").iterdir()) == [path]
    assert journal(tmp_path / "parts").results == RESULTS


def test_two_jobs_of_one_output_keep_their_own_files_and_go_on_from_both(tmp_path: Path) -> None:
    first, second = journal(tmp_path / "parts"), journal(tmp_path / "parts")
    for n in range(0, 60, 2):
        first.add({n: RESULTS[n]})
        second.add({n + 1: RESULTS[n + 1]})
    third = journal(tmp_path / "parts")
    assert third.results == RESULTS
    third.remove()
    assert not (tmp_path / "parts").exists()
    second.add({1: RESULTS[1]})  # it does not know that the other one finished
    second.remove()
    late = journal(tmp_path / "parts")
    late.add({2: RESULTS[2]})
    assert journal(tmp_path / "parts").results == {2: RESULTS[2]}


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    kept = Journal()
    assert kept.open("all") == 0
    kept.add(RESULTS)
    kept.remove()
    assert kept.results == RESULTS
