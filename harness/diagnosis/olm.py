"""What OLM's objects say: Subscription, InstallPlan, CSV, CatalogSource, OperatorGroup."""

from __future__ import annotations

from harness.diagnosis.model import TRANSIENT_S, Fact, Rule
from harness.errors import Blame

_OURS = "of what the how-to installs"


def foreign(fact: Fact) -> bool:
    """The message is about somebody else's Subscription or catalog; ``seen`` says what is ours."""
    ours = [str(it) for it in fact.seen.get("ours", ())]
    return bool(ours) and not any(it in fact.said for it in ours)


def own(fact: Fact) -> bool:
    return not foreign(fact)


def _rule(id: str, sign: str, meaning: str, do: str, **changes: object) -> Rule:
    given: dict[str, object] = {
        "sources": ("condition",),
        "blame": Blame.PRODUCT,
        "final_after_s": 0.0,
        "why": "OLM does not try again before something changes",
        "rank": 60,
    }
    return Rule(id=id, sign=sign, meaning=meaning, do=do, **{**given, **changes})  # type: ignore[arg-type]


RULES: tuple[Rule, ...] = (
    _rule(
        "olm/no-operator-group",
        r"NoOperatorGroup|no OperatorGroup",
        "the namespace has no OperatorGroup, without which OLM installs nothing",
        "create one (olm.yaml brings global-operators in namespace operators)",
        sources=("condition", "object"),
        final_after_s=10.0,
        why="olm.yaml, or whoever makes the namespace, may be about to make it",
        rank=66,
    ),
    _rule(
        "olm/many-operator-groups",
        r"TooManyOperatorGroups|MultipleOperatorGroup|\d+ OperatorGroups",
        "the namespace has more than one OperatorGroup, so OLM installs nothing",
        "remove the one that is not the how-to's",
        sources=("condition", "object"),
        blame=Blame.ENVIRONMENT,
        final_after_s=10.0,
        why="somebody may be about to replace one by the other",
        rank=66,
    ),
    _rule(
        "olm/install-mode",
        r"UnsupportedOperatorGroup",
        "the operator does not support the OperatorGroup's choice of namespaces",
        "use an OperatorGroup for all namespaces",
        blame=Blame.ENVIRONMENT,
        rank=66,
    ),
    _rule(
        "olm/owner-conflict",
        r"InterOperatorGroupOwnerConflict",
        "another operator on this cluster owns the same APIs already",
        "remove that operator's Subscription and CSV; the condition names its OperatorGroup",
        blame=Blame.ENVIRONMENT,
        rank=66,
    ),
    _rule(
        "olm/foreign-subscription",
        r"ConstraintsNotSatisfiable",
        "somebody else's Subscription in the namespace can't be resolved, and OLM resolves all or none",
        "mend or remove the Subscription that the message names",
        blame=Blame.ENVIRONMENT,
        rank=64,
        when=foreign,
    ),
    _rule(
        "olm/not-on-offer",
        r"ConstraintsNotSatisfiable",
        "the catalog does not offer what the Subscription asks for",
        "see package, channel, version and catalog in the profile",
        rank=62,
        when=own,
    ),
    _rule(
        "olm/foreign-catalog",
        r"ErrorPreventedResolution",
        "a catalog of somebody else's does not answer, and OLM then resolves nothing at all",
        "mend or remove the CatalogSource that the message names",
        blame=Blame.ENVIRONMENT,
        final_after_s=TRANSIENT_S,
        why="a catalog that starts is passed over until it answers",
        rank=63,
        when=foreign,
    ),
    _rule(
        "olm/catalog-silent",
        r"ErrorPreventedResolution",
        "the catalog does not answer OLM",
        "see the catalog's pod",
        final_after_s=None,
        why="a catalog that loads answers later; the wait's own limit ends it",
        rank=50,
        when=own,
    ),
    _rule(
        "olm/catalog-missing",
        r"CatalogSource \S+ is not there",
        "the catalog that the Subscription names is not there",
        "see the profile's catalog and olm.yaml",
        sources=("object",),
        rank=62,
    ),
    _rule(
        "olm/catalog-connecting",
        r"TRANSIENT_FAILURE|CONNECTING|no connection yet",
        "OLM has no connection to the catalog",
        "see the catalog's pod",
        final_after_s=None,
        why="a large catalog takes minutes to load, and OLM asks again with growing pauses",
        rank=30,
    ),
    _rule(
        "olm/unpack",
        r"BundleUnpackFailed",
        "the operator's bundle could not be unpacked",
        "see the unpack Job's pods in the catalog's namespace",
        rank=52,
    ),
    _rule(
        "olm/plan-failed",
        r"InstallPlan.*Failed|InstallComponentFailed",
        "the InstallPlan has failed",
        "see its conditions",
    ),
    _rule(
        "olm/csv-failed",
        r"^CSV \S+ is Failed|phase Failed|InstallCheckFailed|ComponentUnhealthy",
        "the operator's installation has failed",
        "see its Deployment's pods",
        rank=48,
    ),
    _rule(
        "olm/requirements",
        r"RequirementsNotMet|RequirementsUnknown",
        "what the operator needs is not there",
        "see requirementStatus of the CSV",
        final_after_s=None,
        why="every installation says so while its CRDs are made",
        rank=35,
    ),
    _rule(
        "olm/installing",
        r"InstallWaiting|InstallReady|NeedsReinstall|Installing",
        "the operator is still being installed",
        "see its Deployment's pods",
        final_after_s=None,
        why="OLM itself gives it 5 minutes",
        rank=15,
    ),
    _rule(
        "olm/deadline",
        r"ProgressDeadlineExceeded",
        "the Deployment made no progress for as long as it says itself",
        "see its pods",
        final_after_s=0.0,
        why="Kubernetes has waited for its progressDeadlineSeconds already",
        rank=38,
    ),
    _rule(
        "olm/aggregated",
        r"FailedDiscoveryCheck|MissingEndpoints|ServiceNotFound|APIService.*(not available|Available=False)",
        "the API that the packageserver serves does not answer",
        "see the packageserver's pods and the way from the API server to them",
        final_after_s=None,
        why="it answers a moment after its pods are ready; the wait's own limit ends it",
        rank=56,
    ),
)
