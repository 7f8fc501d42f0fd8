/* NorMuon, without its Newton-Schulz iteration and the scaling of rows after it, as in muon.h.  Li et al., "NorMuon:
 * making Muon more efficient and scalable", 2025, https://arxiv.org/abs/2510.05491, Algorithm 1.
 *
 * The caller updates v, a number for each row, between the two passes, together with u. */

SAME_HYPER(normuon, muon);
_Static_assert(offsetof(FN(normuon_state), u) == offsetof(FN(muon_state), u), "normuon and muon");

static const FN(rule_ops) FN(normuon_ops) = {
    .scalars = FN(muon_scalars),
    .gather = FN(muon_gather),
    .update = FN(muon),
};
