"""Values of fields to members of a tar, and back: every form in one file."""

from streamtrain.shards.codec.field_encoder import FieldEncoder
from streamtrain.shards.codec.given_values import FieldNotes, ImageFile, Raw, Seen
from streamtrain.shards.codec.member_form import form_of
from streamtrain.shards.codec.npy import npy_header, read_npy
from streamtrain.shards.codec.ragged import Ragged

__all__ = ["FieldEncoder", "FieldNotes", "ImageFile", "Ragged", "Raw", "Seen", "form_of", "npy_header", "read_npy"]
