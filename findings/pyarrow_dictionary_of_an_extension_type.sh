#!/usr/bin/env bash
# pyarrow 25.0.1 writes dictionary-encoded arrays of an extension type to files that it then refuses to read.
#
# The table is valid (validate(full=True)), and writing says nothing. Seen on Python 3.11, Linux x86-64:
#   a dictionary of arrow.uuid, Parquet and Arrow: written; reading raises ArrowInvalid, "Invalid storage type for UuidType"
#   a dictionary of arrow.fixed_shape_tensor, Arrow: written; reading raises ArrowInvalid, "Expected FixedSizeList storage"
# So who encodes such a column as a dictionary to save room has a file that cannot be read again.
# This fails when the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check pyarrow==25.0.1
cd "$folder"
"$folder/environment/bin/python" - <<'CODE'
import uuid

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

identities = pa.array([uuid.UUID(int=number).bytes for number in (1, 2)], pa.uuid())
pairs = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2]), pairs)

expected = {
    ("uuid", "parquet"): "Invalid storage type for UuidType",
    ("uuid", "arrow"): "Invalid storage type for UuidType",
    ("tensor", "arrow"): "Expected FixedSizeList storage type",
}
for (kind, form), message in expected.items():
    values = identities if kind == "uuid" else tensors
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), values)
    table = pa.table({"column": column})
    table.validate(full=True)
    name = f"{kind}.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(table, name)
        read = pyarrow.parquet.read_table
    else:
        pyarrow.feather.write_feather(table, name, compression="uncompressed")
        read = pyarrow.feather.read_table
    try:
        read(name)
    except pa.ArrowInvalid as error:
        assert message in str(error), error
        print(f"pyarrow {pa.__version__}, dictionary of {kind}, {form}: written, then {error}")
    else:
        raise SystemExit(f"{name} was read: the behaviour has changed")
CODE
