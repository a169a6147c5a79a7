"""A library of songs that are found by how they sound: CLAP windows and facts, in LanceDB.

`Library(place).add_folder("music")`, then `.search("dark slow strings")`. library.py is the door,
adding.py how folders come in, ear.py what is heard in a song, facts.py what is told of it,
filters.py which songs are meant, store.py the one file that knows LanceDB.
"""

from musicot_mlx.library.adding import Added as Added
from musicot_mlx.library.library import Find as Find
from musicot_mlx.library.library import Library as Library
