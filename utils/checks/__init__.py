"""Checks that say what is wrong: used by the lessons and the exercises.

Each `check_…` takes what the learner wrote, raises AssertionError with an explanation in the
learner's terms, and returns nothing when all is well. Sizes are small and all different, so that
a swapped axis cannot hide; another `seed` means other numbers and other sizes.

components.py   what the lessons build; used by lessons and exercises
lesson_NN.py    what only the exercises of a lesson ask for
diagnose.py     what every check is made of
puzzles.py      the pictures that an exercise wants to be read
"""

from utils.checks.components import (
    check_attend,
    check_attention,
    check_feedforward,
    check_geglu,
    check_prenorm,
    check_space_step,
    check_time_step,
    check_to_patches,
    reach,
)
from utils.checks.diagnose import check_shape
from utils.checks.lesson_01 import (
    check_back,
    check_place,
    check_positions,
    check_tokens_and_pairs,
    check_tubelets,
)
from utils.checks.lesson_02 import (
    check_attention_cost,
    check_by_hand,
    check_causal,
    check_chunks,
    check_read_maps,
)
from utils.checks.lesson_03 import (
    check_layer,
    check_mixing,
    check_read_curves,
    check_spread,
    check_spread_by_hand,
)
from utils.checks.lesson_04 import (
    check_equal_numbers,
    check_layer_norm,
    check_rms_norm,
    check_stream,
    check_thousand,
)
from utils.checks.lesson_05 import (
    check_gated_width,
    check_geglu_shape,
    check_swiglu,
    check_turn,
)
from utils.checks.lesson_06 import (
    check_as_convolutions,
    check_as_one_layer,
    check_count,
    check_mlp_share,
    check_repaired_feedforward,
    check_unit,
)
from utils.checks.lesson_07 import (
    check_asleep,
    check_assembled_block,
    check_clips_are_apart,
    check_copies,
    check_paper_time_update,
    check_space_update,
)
from utils.checks.lesson_08 import (
    check_groups_and_tokens,
    check_patterns,
    check_read_reach,
    check_scores,
    check_time_attention,
    check_windows,
)
from utils.checks.lesson_09 import (
    check_block_cost,
    check_forward,
    check_fuse,
    check_parameters,
    check_space_forward,
    check_stretch_time,
    check_tells_a_shuffle,
)
from utils.checks.lesson_10 import (
    check_at_rate,
    check_fit,
    check_one_of_each,
    check_read_rgb,
    check_split,
    check_uniform,
)
from utils.checks.lesson_11 import (
    check_accuracy,
    check_learning_rate,
    check_losses,
    check_mirror,
    check_train_step,
    check_train_step_in_parts,
    check_training_curves,
)
from utils.checks.lesson_12 import (
    check_calibration,
    check_hide,
    check_rollout,
    check_softmax,
    check_softmax_by_hand,
    check_temperature,
    check_two_views,
)
from utils.checks.lesson_13 import (
    check_by_length,
    check_lip_window,
    check_read_sentence,
    check_reader,
    check_shows_the_length,
)
