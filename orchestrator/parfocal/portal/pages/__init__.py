"""The parts of the site; each module has a router."""

from parfocal.portal.pages import (
    annotate,
    annotate_image,
    compare,
    data,
    files,
    jobs,
    methods,
    models,
    operator,
    predict,
    start,
    train,
)

_PAGES = (start, data, methods, train, jobs, models, predict, annotate, annotate_image, compare, operator, files)
ROUTERS = tuple(module.router for module in _PAGES)
