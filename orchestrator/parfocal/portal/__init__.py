"""The portal: Parfocal in the browser, for people who do not use a terminal.

It keeps nothing: whatever a page shows comes from the services and the store through `parfocal.client`, with the token
of whoever looks at it, and whatever a form asks for becomes a job. Only uploads that nobody has saved as a dataset yet
lie in the state folder for a while, and sign-ins in the memory of the process.

app.py            the application: routes, errors, files of its own
guard.py          what every request must fulfil: host, origin, token; headers of every answer
oidc.py           signing in at a provider: authorization code flow with PKCE
sessions.py       who is signed in in which browser, and what they may do
settings.py       how browsers reach the portal, and how people sign in
portal.py         clients by person and project, pages from templates
forms.py          forms from the parameters that a method publishes
uploads.py        files on their way to becoming a dataset or the input of a prediction
follow.py         work of several jobs: quality control after a training, comparisons
events.py         a job as it changes, as server-sent events
pictures.py       images of microscopes as PNG
tables.py         tables of results, whoever wrote them
pages/            one module for each part of the site
"""
