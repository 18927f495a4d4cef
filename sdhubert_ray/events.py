"""What happens in a run, as log records that machines can read: JSON lines with the run's id."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

SAID_ALWAYS = "has constructor arguments in the object store and max_restarts"
"""What Ray's core logs as an error in every run: actors of Ray's own libraries may fail to start again."""
_logger = logging.getLogger("sdhubert_ray.events")
_FIELDS = "sdhubert_fields"


def tell(run_id: str, event: str, fields: Mapping[str, object]) -> None:
    """Log an event of a run; shown where logs are JSON lines (`--log-format json`)."""
    _logger.info("%s", event, extra={_FIELDS: {"run_id": run_id, "event": event, **fields}})


def tell_progress(fields: Mapping[str, object]) -> None:
    """Log how far the command is, which may have no run yet; shown likewise."""
    _logger.info("progress", extra={_FIELDS: {"event": "progress", **fields}})


class JsonLines(logging.Formatter):
    """A log record as one line of JSON: time, level, and an event's fields or the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        fields = getattr(record, _FIELDS, None)
        line |= fields if isinstance(fields, dict) else {"message": record.getMessage(), "logger": record.name}
        return json.dumps(line, ensure_ascii=False)
