"""``vatt serve INDEX``: a local page that searches an index by words, sounds and clips, and plays what it finds.

`app` has the routes, `guard` who may ask, `views` the states of an index that changes, `collection` what one holds,
`originals` its files, `decoding` the processes that open media, `projection` the map; the page is in ``static/``, plain
HTML, CSS and JavaScript without a build step.
"""
