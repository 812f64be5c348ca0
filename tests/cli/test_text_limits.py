"""A text that is too large is an error of one line, wherever texts are given."""

from cli.command import pe_ending

from perception_encoder.preprocess.tokenizer import MAX_TEXT_BYTES

HUGE = "word " * (MAX_TEXT_BYTES // 5 + 1)


def test_a_text_on_stdin(tmp_path):
    done = pe_ending("embed", "--text", "-", folder=tmp_path, given=HUGE, returns=1)
    assert "text 0: at least 1,048,580 bytes, the limit is 1,048,576" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_label_of_a_file(tmp_path):
    (tmp_path / "labels.txt").write_text(f"cat\n{HUGE}\n", encoding="utf-8")
    (tmp_path / "a.png").touch()
    done = pe_ending("classify", "a.png", "--labels-file", "labels.txt", folder=tmp_path, returns=1)
    assert "the limit for a text is 1,048,576" in done.stderr
    assert "Traceback" not in done.stderr
