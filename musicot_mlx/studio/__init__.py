"""The studio: songs made by looking, over HTTP. The page in static/ uses nothing but the API.

    routes/ -> plans.py, queue.py, uploads.py -> store.py (SQLite) and engine.py (models)

The event loop (server.py) waits for the network alone. Models live in one thread (engine.py), songs
are made one at a time by another (queue.py), files of strangers are decoded in a process of their
own (decode.py), and what happens is told to whoever listens (events.py). Needs the extra [studio].
"""
