"""Encoded pictures to arrays: by their content, whatever the name says, and the same at packing and at reading.

`kinds` says what every mode of Pillow becomes; `headers` looks at a file without decoding it; `pixels` decodes;
`conversion` brings arrays to one kind and one size; `facts` is what `pack` keeps of all images of a field.
"""
