"""What botocore knows of AWS: its signature, and the schemas of requests to SES and SQS, and of their answers."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel
from botocore.validate import ParamValidator

from notifierd.send.mail.sigv4 import Signer


def botocore_signs(
    signer: Signer, method: str, url: str, headers: Mapping[str, str], body: bytes, now: datetime
) -> dict[str, str]:
    """The headers that botocore would send."""
    request = AWSRequest(method, url, dict(headers), body)
    credentials = Credentials(signer.access_key_id, signer.secret_access_key, signer.session_token or None)
    with pytest.MonkeyPatch.context() as clock:
        clock.setattr(botocore.auth, "get_current_datetime", lambda: now)
        botocore.auth.SigV4Auth(credentials, signer.service, signer.region).add_auth(request)
    return dict(request.headers.items())


@cache
def sesv2() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("sesv2", "service-2"))


@cache
def sqs() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("sqs", "service-2"))


def operation(method: str, path: str) -> OperationModel:
    """The operation that a request calls."""
    found = map(sesv2().operation_model, sesv2().operation_names)
    (one,) = [each for each in found if (each.http["method"], each.http["requestUri"]) == (method, path)]
    return one


def schema_problems(called: OperationModel, document: Mapping[str, Any]) -> str:
    """What is wrong with a request by its schema: unknown or missing members, wrong types; empty if nothing is."""
    return str(ParamValidator().validate(document, called.input_shape).generate_report())


def answer_problems(called: OperationModel, document: Mapping[str, Any]) -> str:
    """The same of an answer."""
    return str(ParamValidator().validate(document, called.output_shape).generate_report())
