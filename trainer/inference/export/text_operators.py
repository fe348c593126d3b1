"""TensorFlow's operators on texts, composed from operators of ONNX and onnxruntime.

`keras.layers.TextVectorization` lowercases texts, strips punctuation, splits them into words or
characters, joins these to n-grams and looks them up. ONNX has no operators for most of this. But
onnxruntime splits texts into characters (Tokenizer, an operator of its own), and ONNX looks strings
up, concatenates two, and splits at spaces. Each operator here is an ONNX function of these, in
ONNX's textual syntax, that is inlined where it is called.

Ragged rows are encoded as in TensorFlow: the values of all rows, concatenated, and `row_splits`
(N + 1), the index at which each row begins, followed by the index at which the last row ends.

Source: https://onnx.ai/onnx/operators, https://onnx.ai/onnx/repo-docs/Syntax.html.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_DOMAIN = "trainer.text"
_OPSETS = {"": 20, "ai.onnx.ml": 2, "com.microsoft": 1, _DOMAIN: 1}
_IR_VERSION = 9  # Of ONNX opset 20, the first with StringConcat and StringSplit.

# The pattern of TextVectorization's punctuation, as written in its graph.
_PUNCTUATION = r"""[!"#$%&()\*\+,-\./:;<=>?@\[\\\]^_`{|}~\']"""

_STRING, _INT64 = 8, 7  # Values of onnx.TensorProto.DataType.

# Splits texts into a table of characters (N, longest), padded with "".
_CUT = """
Cut (texts) => (rows)
{
    rows = com.microsoft.Tokenizer <
        mark = 0, mincharnum = 1, pad_value = "", separators = [""]
    > (texts)
}
"""

# Joins each row of characters to a text, by concatenating neighbours until one column is left.
_JOIN = """
Join (rows) => (texts)
{
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    height = Shape <start = 0, end = 1> (rows)
    sizes = Concat <axis = 0> (height, one)
    nothing = Constant <value = string[1, 1] {""}> ()
    empty = Expand (nothing, sizes)
    initial = Concat <axis = 1> (rows, empty)
    max_iterations = Constant <value_int = 64> ()
    true = Constant <value = bool {1}> ()
    joined = Loop <body = halve
        (int64 iteration, bool condition, string[N, W] row) => (bool more, string[N, V] half) {
        two = Constant <value = int64[1] {2}> ()
        width = Shape <start = 1, end = 2> (row)
        padded = Concat <axis = 1> (row, empty)
        end = Add (width, one)
        left = Slice (padded, zero, width, one, two)
        right = Slice (padded, one, end, one, two)
        half = StringConcat (left, right)
        remaining = Shape <start = 1, end = 2> (half)
        unfinished = Greater (remaining, one)
        more = Squeeze (unfinished)
    }> (max_iterations, true, initial)
    texts = Squeeze (joined, one)
}
"""

# Returns the row of each value.
_ROWS = """
Rows (row_splits, values) => (rows)
{
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    last = Constant <value = int64[1] {-1}> ()
    axis = Constant <value_int = 0> ()
    count = Shape (values)
    end = Add (count, one)
    marks = ConstantOfShape <value = int64[1] {0}> (end)
    starts = Slice (row_splits, one, last)
    number = Shape (starts)
    each = ConstantOfShape <value = int64[1] {1}> (number)
    places = Unsqueeze (starts, one)
    row_starts = ScatterND <reduction = "add"> (marks, places, each)
    all_rows = CumSum (row_starts, axis)
    rows = Slice (all_rows, zero, count)
}
"""

_TRANSLATE = """
{name} (texts) => (translated)
{{
    rows = trainer.text.Cut (texts)
    replacements = ai.onnx.ml.LabelEncoder <
        keys_strings = {keys}, values_strings = {values}, default_string = "unchanged"
    > (rows)
    marker = Constant <value = string {{"unchanged"}}> ()
    is_unchanged = Equal (replacements, marker)
    characters = Where (is_unchanged, rows, replacements)
    translated = trainer.text.Join (characters)
}}
"""

# StringSplit without a delimiter splits at spaces, TensorFlow at all ASCII white space.
_SPLIT = """
Split (texts) => (indices, words, shape)
{
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    second = Constant <value = int64[1] {1}> ()
    spaced = trainer.text.WithSpaces (texts)
    rows, counts = StringSplit (spaced)
    shape = Shape (rows)
    width = Gather (shape, one)
    columns = Range (zero, width, one)
    ends = Unsqueeze (counts, second)
    present = Less (columns, ends)
    places = NonZero (present)
    indices = Transpose (places)
    words = GatherND (rows, indices)
}
"""

_CHARACTERS = """
Characters (texts) => (row_splits, characters)
{
    zero = Constant <value = int64[1] {0}> ()
    second = Constant <value = int64[1] {1}> ()
    axis = Constant <value_int = 0> ()
    rows = trainer.text.Cut (texts)
    nothing = Constant <value = string {""}> ()
    padding = Equal (rows, nothing)
    present = Not (padding)
    places = NonZero (present)
    indices = Transpose (places)
    characters = GatherND (rows, indices)
    each = Cast <to = 7> (present)
    counts = ReduceSum <keepdims = 0> (each, second)
    ends = CumSum (counts, axis)
    row_splits = Concat <axis = 0> (zero, ends)
}
"""

# ONNX cannot compute code points. Characters are numbered by their position in all texts instead.
_DECODE = """
Decode (texts) => (row_splits, codes)
{
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    row_splits, characters = trainer.text.Characters (texts)
    count = Size (characters)
    places = Range (zero, count, one)
    codes = Cast <to = 6> (places)
}
"""
_ENCODE = """
Encode (texts, codes) => (encoded)
{
    row_splits, characters = trainer.text.Characters (texts)
    encoded = Gather (characters, codes)
}
"""

_NGRAMS = """
{name} (values, row_splits) => (ngrams, ngram_splits)
{{
    first = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    zero = Constant <value = int64[1] {{0}}> ()
    one = Constant <value = int64[1] {{1}}> ()
    count = Shape (values)
    separator = Constant <value = string {{{separator}}}> ()
    tails = StringConcat (separator, values)
    rows = trainer.text.Rows (row_splits, values)
    all_1 = Identity (values)
    grams_1 = Identity (values)
    rows_1 = Identity (rows)
    {wider}
    grams = Concat <axis = 0> ({grams})
    gram_rows = Concat <axis = 0> ({gram_rows})
    number = Shape (gram_rows)
    size = Size (gram_rows)
    places = Range (first, size, step)
    by_row = Mul (gram_rows, number)
    keys = Add (by_row, places)
    sorted_keys, order = TopK <largest = 0> (keys, number)
    ngrams = Gather (grams, order)
    row_count = Shape (row_splits)
    none = ConstantOfShape <value = int64[1] {{0}}> (row_count)
    each = ConstantOfShape <value = int64[1] {{1}}> (number)
    next_rows = Add (gram_rows, one)
    next_places = Unsqueeze (next_rows, one)
    counts = ScatterND <reduction = "add"> (none, next_places, each)
    ngram_splits = CumSum (counts, first)
}}
"""
# N-grams of n words: each of n - 1 words, and the next word, if it is in the same row.
_WIDER = """
    more_{n} = Constant <value = int64[1] {{{less}}}> ()
    left_{n} = Sub (count, more_{n})
    size_{n} = Max (left_{n}, zero)
    end_{n} = Add (size_{n}, more_{n})
    heads_{n} = Slice (all_{less}, zero, size_{n})
    tails_{n} = Slice (tails, more_{n}, end_{n})
    all_{n} = StringConcat (heads_{n}, tails_{n})
    head_rows_{n} = Slice (rows, zero, size_{n})
    tail_rows_{n} = Slice (rows, more_{n}, end_{n})
    within_{n} = Equal (head_rows_{n}, tail_rows_{n})
    grams_{n} = Compress <axis = 0> (all_{n}, within_{n})
    rows_{n} = Compress <axis = 0> (head_rows_{n}, within_{n})
"""

_COUNT = """
{name} (row_splits, values, size) => (counted)
{{
    one = Constant <value = int64[1] {{1}}> ()
    rows = trainer.text.Rows (row_splits, values)
    row_column = Unsqueeze (rows, one)
    numbers = Cast <to = 7> (values)
    number_column = Unsqueeze (numbers, one)
    places = Concat <axis = 1> (row_column, number_column)
    ends = Shape (row_splits)
    height = Sub (ends, one)
    listed = Reshape (size, one)
    width = Cast <to = 7> (listed)
    sizes = Concat <axis = 0> (height, width)
    none = ConstantOfShape <value = int64[1] {{0}}> (sizes)
    count = Shape (values)
    each = ConstantOfShape <value = int64[1] {{1}}> (count)
    counted = ScatterND <reduction = "{reduction}"> (none, places, each)
}}
"""

_PAD = """
Pad (shape, values, default, row_splits) => (table)
{
    first = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    two = Constant <value = int64[1] {2}> ()
    last = Constant <value = int64[1] {-1}> ()
    rows = trainer.text.Rows (row_splits, values)
    splits = Shape (row_splits)
    starts = Slice (row_splits, zero, last)
    ends = Slice (row_splits, one, splits)
    lengths = Sub (ends, starts)
    longest = ReduceMax (lengths)
    requested = Slice (shape, one, two)
    is_any = Less (requested, zero)
    width = Where (is_any, longest, requested)
    height = Shape (starts)
    sizes = Concat <axis = 0> (height, width)
    empty = Expand (default, sizes)
    size = Size (values)
    numbers = Range (first, size, step)
    row_starts = Gather (starts, rows)
    columns = Sub (numbers, row_starts)
    fits = Less (columns, width)
    row_column = Unsqueeze (rows, one)
    column_column = Unsqueeze (columns, one)
    pairs = Concat <axis = 1> (row_column, column_column)
    places = Compress <axis = 0> (pairs, fits)
    fitting = Compress <axis = 0> (values, fits)
    table = ScatterND (empty, places, fitting)
}
"""
# The same for values with the row of each value (rows) and the number of rows (height).
_PAD_ROWS = """
PadRows (shape, values, default, height, rows) => (table)
{
    first = Constant <value_int = 0> ()
    one = Constant <value = int64[1] {1}> ()
    listed = Reshape (height, one)
    splits = Add (listed, one)
    none = ConstantOfShape <value = int64[1] {0}> (splits)
    next_rows = Add (rows, one)
    next_places = Unsqueeze (next_rows, one)
    count = Shape (rows)
    each = ConstantOfShape <value = int64[1] {1}> (count)
    counts = ScatterND <reduction = "add"> (none, next_places, each)
    row_splits = CumSum (counts, first)
    table = trainer.text.Pad (shape, values, default, row_splits)
}
"""


def handlers() -> dict[str, Any]:
    """Returns tf2onnx's handlers of these operators, which leave them for `replace_operators`."""
    from tf2onnx import handler

    def leave(context: Any, node: Any, name: str, arguments: Any) -> None:
        node.domain = _DOMAIN

    def equal(context: Any, node: Any, name: str, arguments: Any) -> None:
        if context.get_dtype(node.input[0]) == _STRING:
            node.domain = _DOMAIN
            return
        convert, settings = handler.tf_op.find_effective_op("Equal", "")
        convert(context, node, **settings)

    return {**dict.fromkeys(_REPLACED, (leave, [])), "Equal": (equal, [])}


def opset() -> Any:
    """Returns the opset import of a model with such operators."""
    import onnx.helper

    return onnx.helper.make_opsetid(_DOMAIN, _OPSETS[_DOMAIN])


def replace_operators(model: Any) -> Any:
    """Returns an ONNX model with TensorFlow's operators on texts replaced.

    Args:
        model: onnx.ModelProto of opset 18, in which `handlers` left TensorFlow's operators.

    Raises:
        ValueError: an operator has an attribute that is not supported; the message names it.
    """
    import onnx.helper
    import onnx.inliner

    functions = dict(_SHARED)
    constants = {constant.name: constant for constant in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.domain != _DOMAIN:
            continue
        attributes = {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
        }
        del node.attribute[:]
        if node.op_type == "Equal":
            node.domain = ""
            continue
        if node.op_type == "UnicodeEncode":
            texts, codes = _source_texts(producers, node), node.input[0]
            del node.input[:]
            node.input.extend([texts, codes])
        if node.op_type == "RaggedBincount":
            _expect_no_weights(constants.get(node.input[3]))
        name, text = _REPLACED[node.op_type](attributes)
        functions[name] = text
        node.op_type = name
        del node.input[len(_parameters(text)) :]
    # Operators of opset 18 mean the same in 20, except for transforms and sampling of images.
    del model.opset_import[:]
    model.opset_import.extend(_opsets(_OPSETS))
    model.ir_version = _IR_VERSION
    model.functions.extend(map(_parse, functions.values()))
    inlined = onnx.inliner.inline_local_functions(model)
    for node in inlined.graph.node:
        if node.op_type == "Tokenizer":  # The onnx package cannot infer its type.
            inlined.graph.value_info.append(
                onnx.helper.make_tensor_value_info(node.output[0], _STRING, [None, None])
            )
    domains = {node.domain for node in inlined.graph.node} | {""}
    del inlined.opset_import[:]
    inlined.opset_import.extend(
        _opsets({name: _OPSETS[name] for name in _OPSETS if name in domains})
    )
    return inlined


def _source_texts(producers: Mapping[str, Any], node: Any) -> str:
    """Returns the name of the texts from which the characters to encode were decoded."""
    producer = producers.get(node.input[0])
    shape_only = ("Identity", "Reshape", "Squeeze", "Unsqueeze")
    while producer is not None and producer.op_type in shape_only:
        producer = producers.get(producer.input[0])
    if producer is None or producer.op_type not in ("UnicodeDecode", "Decode"):
        raise ValueError("UnicodeEncode of computed characters")
    return str(producer.input[0])


def _parameters(text: str) -> list[str]:
    """Returns the names of a function's parameters."""
    return text[text.index("(") + 1 : text.index(")")].split(", ")


def _opsets(versions: Mapping[str, int]) -> list[Any]:
    import onnx.helper

    return [onnx.helper.make_opsetid(name, version) for name, version in versions.items()]


def _parse(text: str) -> Any:
    import onnx.parser

    imports = ", ".join(f'"{name}": {version}' for name, version in _OPSETS.items())
    return onnx.parser.parse_function(f'<domain: "{_DOMAIN}", opset_import: [{imports}]>{text}')


def _quoted(texts: Iterable[str]) -> str:
    # ONNX's textual syntax has no escapes for control characters.
    return ", ".join('"' + re.sub(r'(["\\])', r"\\\1", text) + '"' for text in texts)


def _translate(name: str, table: Mapping[str, str]) -> str:
    keys, values = (f"[{_quoted(each)}]" for each in (table.keys(), table.values()))
    return _TRANSLATE.format(name=name, keys=keys, values=values)


def _lower(attributes: Mapping[str, Any]) -> tuple[str, str]:
    _expect(attributes, encoding=b"")  # With "utf-8" all of Unicode is lowercased.
    table = dict(zip(string.ascii_uppercase, string.ascii_lowercase, strict=True))
    return "Lower", _translate("Lower", table)


def _replace(attributes: Mapping[str, Any]) -> tuple[str, str]:
    _expect(attributes, pattern=_PUNCTUATION.encode(), rewrite=b"", replace_global=1)
    return "Strip", _translate("Strip", dict.fromkeys(string.punctuation, ""))


def _split(attributes: Mapping[str, Any]) -> tuple[str, str]:
    _expect(attributes, maxsplit=-1)
    return "Split", _SPLIT


def _decode(attributes: Mapping[str, Any]) -> tuple[str, str]:
    _expect(attributes, input_encoding=b"UTF-8", replace_control_characters=0)
    return "Decode", _DECODE


def _encode(attributes: Mapping[str, Any]) -> tuple[str, str]:
    _expect(attributes, output_encoding=b"UTF-8")
    return "Encode", _ENCODE


def _ngrams(attributes: Mapping[str, Any]) -> tuple[str, str]:
    _expect(attributes, left_pad=b"", right_pad=b"", pad_width=0, preserve_short_sequences=0)
    widths = attributes["ngram_widths"]
    name = "_".join(["NGrams", *map(str, widths)])
    text = _NGRAMS.format(
        name=name,
        separator=_quoted([attributes["separator"].decode()]),
        wider="".join(_WIDER.format(n=n, less=n - 1) for n in range(2, max(widths) + 1)),
        grams=", ".join(f"grams_{n}" for n in widths),
        gram_rows=", ".join(f"rows_{n}" for n in widths),
    )
    return name, text


def _bincount(attributes: Mapping[str, Any]) -> tuple[str, str]:
    once = attributes["binary_output"]
    name = "CountOnce" if once else "Count"
    return name, _COUNT.format(name=name, reduction="none" if once else "add")


def _pad(attributes: Mapping[str, Any]) -> tuple[str, str]:
    if attributes["row_partition_types"] == [b"FIRST_DIM_SIZE", b"VALUE_ROWIDS"]:
        return "PadRows", _PAD_ROWS
    _expect(attributes, row_partition_types=[b"ROW_SPLITS"])
    return "Pad", _PAD


def _expect_no_weights(weights: Any) -> None:
    if weights is None or list(weights.dims) != [0] or weights.data_type != _INT64:
        raise ValueError("RaggedBincount with weights")


def _expect(attributes: Mapping[str, Any], **expected: Any) -> None:
    for name, value in expected.items():
        if attributes.get(name, value) != value:
            raise ValueError(f"{name} {attributes[name]!r} of an operator on texts")


# By TensorFlow's operator: a function from its attributes to the name and the text of the ONNX
# function that replaces it.
_REPLACED: dict[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
    "StringLower": _lower,
    "StaticRegexReplace": _replace,
    "StringSplitV2": _split,
    "UnicodeDecode": _decode,
    "UnicodeEncode": _encode,
    "StringNGrams": _ngrams,
    "RaggedBincount": _bincount,
    "RaggedTensorToTensor": _pad,
}
# Functions that the functions above call.
_SHARED = {
    "Cut": _CUT,
    "Join": _JOIN,
    "Rows": _ROWS,
    "Pad": _PAD,
    "Characters": _CHARACTERS,
    "WithSpaces": _translate("WithSpaces", dict.fromkeys("\t\n\v\f\r", " ")),
}
