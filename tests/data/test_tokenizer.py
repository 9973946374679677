"""Sentences to ids: the three kinds of vocabulary, saving, and files that cannot be used."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from vatt.data.tokenizer import TextError, Tokenizer, load_word_embeddings


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_official_vocabulary(tmp_path):
    path = write(tmp_path / "v.txt", "<pad>\n<bos>\n<eos>\n<unk>\ncut\nthe\ndont\n")
    tokenizer = Tokenizer.from_vocabulary(path)
    ids = tokenizer.encode(["Cut the ONION!", "don't, the", "", "the " * 9], 4)
    np.testing.assert_array_equal(ids, [[4, 5, 3, 0], [6, 5, 0, 0], [0, 0, 0, 0], [5, 5, 5, 5]])
    assert ids.dtype == np.int64
    assert tokenizer.vocab_size == 7


def test_official_vocabulary_with_ids(tmp_path):
    tokenizer = Tokenizer.from_vocabulary(write(tmp_path / "v.txt", "1 <unk>\n0 <pad>\n9 salt\n"))
    assert tokenizer.encode(["salt pepper"], 3).tolist() == [[9, 1, 0]]
    assert tokenizer.vocab_size == 10


def test_bert_vocabulary(tmp_path):
    path = write(tmp_path / "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##able\nto\n!\n")
    for make in (Tokenizer.from_bert, Tokenizer.from_file):
        assert make(path).encode(["Unable to!", "what"], 5).tolist() == [[4, 5, 6, 7, 0], [1, 0, 0, 0, 0]]


def test_words_that_the_vocabulary_does_not_have(tmp_path):
    official = Tokenizer.from_vocabulary(write(tmp_path / "v.txt", "<pad>\n<unk>\nthe\ndont\n"))
    assert official.unknown_words("The ONION, don't wil't!") == (["ONION", "wil't"], 2)
    assert official.unknown_words("the onion", 1) == ([], 1)
    assert official.unknown_words("onion <unk> ...") == (["onion", "unk"], 0)
    bert = Tokenizer.from_bert(write(tmp_path / "b.txt", "[PAD]\n[UNK]\nun\n##able\nto\n!\n"))
    assert bert.unknown_words("Unable to what!") == (["what"], 4)
    trained = Tokenizer.train(["a red étoile"])
    trained.save(tmp_path)
    for tokenizer in (trained, Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(trained))):
        assert tokenizer.unknown_words("une Étoile 🌟 rED") == (["une", "🌟"], 2)
        assert tokenizer.unknown_words("") == ([], 0)


def test_trained_words_do_not_depend_on_the_order_and_survive_saving(tmp_path):
    captions = ["A red star", "a blue star 🌟", "a red ring", "étoile"]
    tokenizer = Tokenizer.train(captions, 100)
    again = Tokenizer.train(captions[::-1], 100)
    tokenizer.save(tmp_path)
    copies = [again, Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(tokenizer))]
    ids = tokenizer.encode(["a RED, star 🌟 étoile zebra"], 8)
    assert ids[0, 5] == 1
    assert ids[0, 6] == 0
    assert len(set(ids[0, :5].tolist()) - {0, 1}) == 5
    for copy in copies:
        np.testing.assert_array_equal(copy.encode(["a RED, star 🌟 étoile zebra"], 8), ids)
        assert copy.vocab_size == tokenizer.vocab_size


def test_line_separators_inside_a_token_do_not_shift_the_ids(tmp_path):
    path = write(tmp_path / "vocab.txt", "[PAD]\n[UNK]\na\u2028b\nsalt\n")
    assert Tokenizer.from_bert(path).encode(["salt"], 1).tolist() == [[3]]


def test_a_caption_cannot_spell_padding():
    ids = Tokenizer.train(["star"]).encode(["<pad> star <unk> star"], 5)
    assert ids.tolist() == [[1, 2, 1, 2, 0]]


def test_trained_vocabulary_keeps_the_frequent_words():
    tokenizer = Tokenizer.train(["often often often", "rare"], 3)
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode(["often rare"], 2).tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "v.txt: the vocabulary is empty"),
        ("<pad>\n<unk>\nsalt\nsalt\n", "v.txt, line 4: 'salt' is there twice"),
        ("<pad>\n<unk>\nSalt\n", "v.txt, line 3: 'Salt' is not in lower case"),
        ("<pad>\n<unk>\nsea salt flakes\n", "v.txt, line 3: expected a word"),
        ("<pad>\n<unk>\n\n", "v.txt, line 3"),
        ("<pad>\nsalt\n", "no <unk>"),
        ("<unk>\n<pad>\n", "<pad> has id 1"),
        ("0 <pad>\n1 <unk>\n1 salt\n", "v.txt, line 3: 'salt' has the same id 1 as '<unk>'"),
        ("0 <pad>\n1 <unk>\n² salt\n", "v.txt, line 3: expected a word"),
    ],
)
def test_bad_vocabularies_are_named(tmp_path, text, message):
    with pytest.raises(TextError, match=message):
        Tokenizer.from_vocabulary(write(tmp_path / "v.txt", text))


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"<pad>\n<unk>\n\xe9t\xe9\n")
    with pytest.raises(TextError, match=r"latin\.txt"):
        Tokenizer.from_file(tmp_path / "latin.txt")
    with pytest.raises(TextError, match=r"absent\.txt"):
        Tokenizer.from_file(tmp_path / "absent.txt")
    write(tmp_path / "tokenizer.json", "{}")
    with pytest.raises(TextError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_word_embeddings(tmp_path):
    path = tmp_path / "e.npy"
    np.save(path, np.ones((4, 3)))
    assert load_word_embeddings(path, 4, 3).dtype == np.float32
    with pytest.raises(TextError, match=r"e\.npy: shape \(4, 3\), but the model needs \(5, 3\)"):
        load_word_embeddings(path, 5, 3)
    table = np.ones((4, 3), np.float32)
    table[2, 1] = np.nan
    np.save(path, table)
    with pytest.raises(TextError, match="row 2 is not finite"):
        load_word_embeddings(path, 4, 3)
    np.save(path, np.array([{"a": 1}], dtype=object))
    with pytest.raises(TextError, match=r"e\.npy"):
        load_word_embeddings(path, 4, 3)
    path.write_bytes(b"nothing")
    with pytest.raises(TextError, match=r"e\.npy"):
        load_word_embeddings(path, 4, 3)
