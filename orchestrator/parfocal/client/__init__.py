"""The Python client of Parfocal: what the command line, the workflows and a lab's own scripts use.

>>> from parfocal.client import Client, requests
>>> client = Client()  # doctest: +SKIP
>>> request = requests.training_request("care-2d", client.dataset_uri("beads"), "beads")  # doctest: +SKIP
>>> job = client.wait(client.start(request).id)  # doctest: +SKIP

Everything raises the errors of `parfocal.runtime.errors`.
"""

from parfocal.client.client import Client
from parfocal.client.services import ServiceInfo

__all__ = ["Client", "ServiceInfo"]
