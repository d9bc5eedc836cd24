"""The machine as it is: what it and its container allow, looked at before anything starts.

Where something is missing, another place is taken, or one line names the variable or the limit. No heavy imports.
"""

from streamtrain.prepare.surroundings.allowances import usable_cpus
from streamtrain.prepare.surroundings.process import check_process
from streamtrain.prepare.surroundings.ray_room import RayRoom, check_cpus, room_for_ray
from streamtrain.prepare.surroundings.writable import check_database, check_run_folders

__all__ = [
    "RayRoom",
    "check_cpus",
    "check_database",
    "check_process",
    "check_run_folders",
    "room_for_ray",
    "usable_cpus",
]
