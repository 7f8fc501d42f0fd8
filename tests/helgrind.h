/* Included before all else, tells helgrind, which knows locks alone, that every atomic operation orders what stands
 * around it.  So it finds what is shared without one. */
#include <valgrind/helgrind.h>

#define ORDERED(word, operation)                                                                                       \
    __extension__({                                                                                                    \
        void *const ordered_word = (void *)(word);                                                                     \
        VALGRIND_HG_DISABLE_CHECKING(ordered_word, sizeof *(word));                                                    \
        ANNOTATE_HAPPENS_BEFORE(ordered_word);                                                                         \
        __auto_type ordered_result = (operation);                                                                      \
        ANNOTATE_HAPPENS_AFTER(ordered_word);                                                                          \
        ordered_result;                                                                                                \
    })
#define __atomic_load_n(word, order)            ORDERED(word, __atomic_load_n(word, order))
#define __atomic_exchange_n(word, value, order) ORDERED(word, __atomic_exchange_n(word, value, order))
#define __atomic_fetch_add(word, value, order)  ORDERED(word, __atomic_fetch_add(word, value, order))
#define __atomic_fetch_and(word, value, order)  ORDERED(word, __atomic_fetch_and(word, value, order))
#define __atomic_store_n(word, value, order)    ORDERED(word, (__atomic_store_n(word, value, order), 0))
#define __atomic_compare_exchange_n(word, expected, value, weak, success, failure)                                     \
    ORDERED(word, __atomic_compare_exchange_n(word, expected, value, weak, success, failure))
