"""Stand-ins for what a pack's supervisor meets: each is a program of its own, standard library only.

`install_fakes(FOLDER)` writes the executables; put `FOLDER/bin` first on PATH. All of them share a state folder, named
by FAKE_PACK_STATE, in which they write what happened (`events.jsonl`) and read how to behave.
"""
