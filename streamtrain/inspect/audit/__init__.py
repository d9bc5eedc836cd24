"""Is the stored order really shuffled? The tests are in `statistics`; `conclusion` says in words what they come to."""

from streamtrain.inspect.audit.conclusion import Audit, audit, order_warning, report

__all__ = ["Audit", "audit", "order_warning", "report"]
