/* Rules, stages and blocks for one T.  kernels.inl.h includes it twice. */
#include "catch_up.h"
#include "means.h"
#include "powers.h"
WIDE_BEGIN
#include "../storage/load_store.h"
WIDE_END
#include "sums.h"
#include "rule_ops.h"
#include "rule_table.h"
#include "stages.h"
#include "rows.h"
#include "block.h"
#include "tiles.h"
#include "traffic.h"
