"""Is the stored order really shuffled? One statistic a file, each with its equation; `verdict` says it in words."""

from streamtrain.inspect.audit.conclusion import Audit, audit, order_warning, report

__all__ = ["Audit", "audit", "order_warning", "report"]
