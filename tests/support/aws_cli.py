"""The AWS CLI, as far as the manual uses it: ``python -m tests.support.aws_cli SERVICE OPERATION --OPTION VALUE``.

It judges a command by botocore's models, which the real one is made from, notes it in the file $AWS_CALLS, and prints
one member of an invented answer, as ``--query`` asks for.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import validate_parameters

REGION, ACCOUNT = "ap-northeast-1", "123456789012"
TOPIC_ARN = f"arn:aws:sns:{REGION}:{ACCOUNT}:notifierd-feedback"
QUEUE_ARN = f"arn:aws:sqs:{REGION}:{ACCOUNT}:notifierd-feedback"
QUEUE_URL = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/notifierd-feedback"
RENAMED = {"--notification-endpoint": "--endpoint"}
"""Options that the CLI gives another name than the model does (aws/aws-cli, awscli/customizations/argrename.py)."""
ANSWERS = {"Account": ACCOUNT, "TopicArn": TOPIC_ARN, "QueueUrl": QUEUE_URL}


def main(arguments: list[str]) -> int:
    """Carry out one command."""
    service, name, *rest = arguments
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    (operation,) = (one for one in model.operation_names if xform_name(one, "-") == name)
    given = {RENAMED.get(option, option): value for option, value in zip(rest[::2], rest[1::2], strict=True)}
    asked = given.pop("--query", "")
    assert given.pop("--output", "text") == "text"
    shape = model.operation_model(operation).input_shape
    members = {f"--{xform_name(member, '-')}": member for member in shape.members} if shape else {}
    parameters = {members[option]: read(shape.members[members[option]], value) for option, value in given.items()}
    if shape:
        validate_parameters(parameters, shape)
    with Path(os.environ["AWS_CALLS"]).open("a", encoding="utf-8") as calls:
        calls.write(json.dumps([operation, parameters]) + "\n")
    if asked:
        assert asked in model.operation_model(operation).output_shape.members
        sys.stdout.write(f"{ANSWERS[asked]}\n")
    return 0


def read(shape: Shape, value: str) -> Any:
    """Return the value of an option: a text, JSON, or the shorthand KEY=VALUE."""
    if shape.type_name == "string":
        return value
    return json.loads(value) if value.lstrip().startswith("{") else dict([value.split("=")])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
