"""``vatt serve INDEX``: a local page that searches an index by words, sounds and clips, and plays what it finds.

`app` has the routes, `guard` who may ask, `collection` what is served, `embedding` the model, `decoding` the processes
that open media, `projection` the map; the page is in ``static/``, plain HTML, CSS and JavaScript without a build step.
"""
