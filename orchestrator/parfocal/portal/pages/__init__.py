"""The parts of the site; each module has a router."""

from parfocal.portal.pages import annotate, compare, data, files, jobs, methods, models, operator, predict, start, train

ROUTERS = tuple(
    module.router for module in (start, data, methods, train, jobs, models, predict, annotate, compare, operator, files)
)
