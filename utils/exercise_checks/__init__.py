"""What the exercises check, a room a lesson; `utils.checks` offers all of it."""

from utils.exercise_checks.lesson_01 import *  # noqa: F403
from utils.exercise_checks.lesson_02 import *  # noqa: F403
from utils.exercise_checks.lesson_03 import *  # noqa: F403
from utils.exercise_checks.lesson_04 import *  # noqa: F403
from utils.exercise_checks.lesson_05 import *  # noqa: F403
from utils.exercise_checks.lesson_06 import *  # noqa: F403
from utils.exercise_checks.lesson_07 import *  # noqa: F403
from utils.exercise_checks.lesson_08 import *  # noqa: F403
from utils.exercise_checks.lesson_09 import *  # noqa: F403
from utils.exercise_checks.lesson_10 import *  # noqa: F403
from utils.exercise_checks.lesson_11 import *  # noqa: F403
from utils.exercise_checks.lesson_12 import *  # noqa: F403
