"""Which files are policy files, and the limits on reading them."""

import os
from pathlib import Path

import pytest

from gateway.policy import files
from gateway.policy.files import Sources, load_yaml_document, policy_files
from gateway.policy.problems import ConfigurationProblems
from tests.support.policies import problems_of_folder, write


def names(folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in policy_files(folder, [])]


def test_yaml_files_of_all_folders_are_read_in_order_of_their_paths(tmp_path):
    for name in ("b.yaml", "a.yml", "c/d.yaml", "c/a.yaml", "README.md", "x.json"):
        write(tmp_path / Path(name).parent, "a: 1", Path(name).name)
    assert names(tmp_path) == ["a.yml", "b.yaml", "c/a.yaml", "c/d.yaml"]


def test_a_config_map_volume_is_read_once(tmp_path):
    write(tmp_path / "..2026_11_23", "a: 1", "a.yaml")
    (tmp_path / "..data").symlink_to("..2026_11_23")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    write(tmp_path / ".hidden", "a: 1")
    assert names(tmp_path) == ["a.yaml"]


def test_a_file_may_stand_for_the_folder(tmp_path):
    write(tmp_path, "a: 1")
    assert policy_files(tmp_path / "policy.yaml", []) == [tmp_path / "policy.yaml"]


def test_a_link_to_a_folder_is_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "real", "a: 1", "a.yaml")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    problems: list = []
    assert tmp_path / "real" / "a.yaml" in policy_files(tmp_path, problems)
    assert [problem.message for problem in problems] == ["a folder within itself, or folders nested too deep"]


def test_a_missing_folder_an_empty_one_and_one_without_documents_are_problems(tmp_path):
    assert problems_of_folder(tmp_path / "nowhere") == [f"{tmp_path}/nowhere: no such folder"]
    assert problems_of_folder(tmp_path) == [f"{tmp_path}: holds no policy documents (*.yaml, *.yml)"]
    write(tmp_path, "# later")
    assert problems_of_folder(tmp_path) == [f"{tmp_path}: holds no policy documents (*.yaml, *.yml)"]


def test_a_dangling_link_a_pipe_and_bytes_that_are_no_text_are_problems(tmp_path):
    (tmp_path / "a.yaml").symlink_to("nowhere")
    os.mkfifo(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_bytes(b"a: 1\nb: \xff\xfe\n")
    (tmp_path / "d.yaml").write_text("a: 1\n", encoding="utf-16")
    assert problems_of_folder(tmp_path) == [
        "a.yaml: cannot be read: No such file or directory",
        "b.yaml: is not a regular file",
        "c.yaml:2: is not UTF-8",
        "d.yaml:1: is not UTF-8",
    ]


def test_a_file_and_all_files_together_have_a_limit(tmp_path, monkeypatch):
    write(tmp_path, "a: " + "x" * 100, "a.yaml")
    write(tmp_path, "b: " + "x" * 100, "b.yaml")
    monkeypatch.setattr(files, "MAX_TOTAL_BYTES", 150)
    assert any("MiB of policy files" in problem for problem in problems_of_folder(tmp_path))
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 50)
    assert problems_of_folder(tmp_path) == ["a.yaml: is larger than 0 MiB", "b.yaml: is larger than 0 MiB"]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfkey: 1\n")
    assert load_yaml_document(tmp_path / "a.yaml")[0] == {"key": 1}


def test_the_fingerprint_is_that_of_what_was_read(tmp_path):
    write(tmp_path, "a: 1")
    sources = Sources(tmp_path)
    list(sources.documents([]))
    assert sources.sha256 == Sources(tmp_path).fingerprint()
    write(tmp_path, "a: 2")
    assert sources.sha256 != Sources(tmp_path).fingerprint()
    before = Sources(tmp_path).fingerprint()
    (tmp_path / "policy.yaml").rename(tmp_path / "other.yaml")
    assert Sources(tmp_path).fingerprint() != before


def test_files_that_change_while_they_are_read_are_not_taken_over(tmp_path):
    write(tmp_path, "a: 1\n---\nb: 2\n")
    problems: list = []
    documents = Sources(tmp_path).documents(problems)
    next(documents)
    write(tmp_path, "a: 1\n---\nb: 2\n---\nc: 3\n")
    list(documents)
    assert [problem.message for problem in problems] == ["the files changed while they were read"]


def test_a_settings_file_that_is_not_there_is_a_problem(tmp_path):
    with pytest.raises(ConfigurationProblems, match=r"gateway.yaml: cannot be read: No such file or directory"):
        load_yaml_document(tmp_path / "gateway.yaml")
