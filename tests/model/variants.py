"""What is explored: the protocol under many bounds, and with each of its defences switched off."""

from dataclasses import dataclass, replace

from .defences import Defence as D
from .world import Config, Reads

ONE, TWO = (Reads(),), (Reads(), Reads())
AGENT = (Reads(agent=0),)


@dataclass(frozen=True, slots=True)
class Variant:
    """One exploration.

    Attributes:
        name: What it is about.
        config: Its bounds.
        off: The defences that are switched off.
        covers: Where nothing breaks although something is off: what covers for it.
        long: Takes too long for the test suite.
    """

    name: str
    config: Config
    off: tuple[D, ...] = ()
    covers: str = ""
    long: bool = False


# --- bounds -------------------------------------------------------------------------------------------

TIER = Config("ao", reads=TWO)
TIER_LONG = Config("aao", reads=TWO)
REPLACED = Config("ao", reads=(Reads(replaces=True), Reads()))
REPLACED_TWICE = Config("ao", reads=(Reads(replaces=True), Reads(replaces=True)))
REPLACED_NEAR = Config("ao", agents=1, reads=(Reads(agent=0, replaces=True),), log_max=1, inbox=1)
REPLACED_FAILOVER = Config("ao", reads=(Reads(replaces=True),), failovers=1)
GET_SET = Config("ao", reads=(Reads(get_set=True), Reads()))
SCRIPTS = Config("ab", keys=2, reads=(Reads(key=1),), script_keys=1, kills=1)
SCRIPTS_REPLICA = replace(SCRIPTS, reads=ONE, replica=True)
PATTERN = Config("*o", keys=2, reads=(Reads(), Reads(key=1)))
PATTERN_REPLICA = Config("*o", reads=ONE, replica=True)
FAILOVER = Config("ao", reads=ONE, failovers=1)
PURGE = Config("ao", reads=ONE, purges=True, failovers=1)
PURGE_REPLICA = Config("ao", reads=ONE, purges=True, replica=True)
FLUSHED = Config("ao", reads=ONE, flushes=1)
STATELESS = Config("aa", reads=ONE, state_evictions=1, failovers=1)
STATELESS_REPLICA = Config("ao", reads=ONE, state_evictions=1, replica=True)
CRASH = Config("oaa", reads=ONE, crashes=1, begun=1, rollbacks=True)
CRASH_FLUSHED = Config("aa", reads=ONE, crashes=1, begun=1, rollbacks=True, flushes=1)
RESTORE = Config("aa", reads=ONE, restores=1, begun=1)
RESTORE_PAGES = Config("aaa", reads=ONE, restores=1, begun=2, pages=True)
COPY = replace(RESTORE, same_timeline=True)
DUMP = replace(RESTORE, restores=0, dumps=1)
DUMP_PAGES = replace(RESTORE_PAGES, restores=0, dumps=1)
DUMP_PURGE = replace(DUMP, purges=True)
REPLICA = Config("ao", reads=ONE, replica=True)
REPLICA_LONG = Config("aao", reads=TWO, replica=True)

NEAR = Config("ao", agents=1, reads=AGENT, log_max=1)
NEAR_LONG = Config("aoa", agents=1, reads=AGENT, log_max=2)
NEAR_NOTICED = replace(NEAR, silent=False)
NEAR_PATTERN = Config("*o", agents=1, reads=AGENT, log_max=1, inbox=1, kills=0)
NEAR_SCRIPTS = Config("ab", keys=2, agents=1, reads=AGENT, log_max=1, inbox=1, script_keys=1, kills=1)
NEAR_FLUSHED = Config("ao", agents=1, reads=AGENT, inbox=1, log_max=1, flushes=1)
NEAR_FLUSHED_ONE = replace(NEAR_FLUSHED, changes="a")
NEAR_FAILOVER = Config("a", agents=1, reads=AGENT, inbox=1, log_max=1, failovers=1)
NEAR_FAILOVER_LONG = Config("ao", agents=1, reads=AGENT, inbox=1, failovers=1)
NEAR_FAILOVERS = replace(NEAR_FAILOVER, failovers=2)
TWO_AGENTS = Config("a", agents=2, reads=AGENT, inbox=1, log_max=1)
TWO_AGENTS_FAILOVER = replace(TWO_AGENTS, failovers=1, kills=0, silent=False)
TWO_READS = replace(NEAR, reads=(Reads(agent=0), Reads(agent=0)))

LEADERS = Config("ao", reads=ONE, workers=2, terms=2)
LEADERS_FAILOVER = Config("a", reads=ONE, workers=2, terms=2, failovers=1, kills=1)
LEADERS_FAILOVER_LONG = Config("ao", reads=ONE, workers=2, terms=3, failovers=1, kills=1)
LEADERS_NEAR = Config("a", agents=1, reads=AGENT, workers=2, terms=2, inbox=1, log_max=1)

OWN = Config("a", agents=1, reads=AGENT, owners=(0,), inbox=1)
OWN_REPLICA = replace(OWN, replica=True, log_max=1)
OWN_REPLICA_LONG = replace(OWN_REPLICA, reads=(Reads(agent=0), Reads(agent=0)))
OWN_NO_LSN = replace(OWN_REPLICA, lsn_known=False)
OWN_PATTERN = Config("*", agents=1, reads=AGENT, owners=(0,), inbox=1, log_max=1)
OWN_PATTERN_REPLICA = replace(OWN_PATTERN, replica=True)
OWN_TWO_AGENTS = replace(OWN, agents=2, reads=(Reads(agent=1),), log_max=1)

NO_RUN = Config("ao", reads=ONE, failovers=1, kills=0, run_id=False)
NO_RUN_SCRIPTS = Config("ab", keys=2, reads=ONE, script_keys=1, failovers=1, kills=0, run_id=False)
NO_RUN_NEAR = replace(NEAR_FAILOVER, kills=0, run_id=False)
NO_RUN_OWN = Config("a", agents=1, reads=AGENT, owners=(0,), log_max=1, inbox=1, failovers=1, kills=0,
                    run_id=False)  # fmt: skip

TOKENS = Config("oa", agents=1, reads=AGENT, crashes=1, begun=1, rollbacks=True, tokens=True,
                log_max=1, inbox=1, kills=0, silent=False)  # fmt: skip
TOKENS_LONG = replace(TOKENS, kills=None, silent=True)
TOKENS_RESTORE = replace(TOKENS, silent=True, changes="aa", crashes=0, rollbacks=False, restores=1)
TOKENS_DUMP = replace(TOKENS_RESTORE, restores=0, dumps=1)
TOKENS_PAGES = Config("ab", keys=2, agents=1, reads=(Reads(agent=0, key=1),), purges=True, pages=True,
                      tokens=True, log_max=1, inbox=1)  # fmt: skip

MADE_NEW = (Reads(), Reads(refresher=True))
REFRESH = Config("aa", reads=MADE_NEW, refreshed=True)
STALE = replace(REFRESH, serve_stale=True)
STALE_THREE = replace(STALE, changes="aao")
STALE_PURGE = replace(STALE, changes="aA")
STALE_PATTERN = replace(STALE, changes="a*")
STALE_FAILOVER = replace(STALE_PURGE, reads=ONE, failovers=1)
STALE_FAILOVER_MADE_NEW = replace(STALE_PURGE, failovers=1)
STALE_LOST = Config("aA", reads=ONE, purges=True, refreshed=True, serve_stale=True)
STALE_NEAR = Config("ao", agents=1, reads=AGENT, log_max=1, inbox=1, refreshed=True, serve_stale=True)
STALE_NEAR_MADE_NEW = replace(STALE_NEAR, reads=(Reads(agent=0), Reads(refresher=True)))
STALE_LEADERS = Config("aA", reads=ONE, workers=2, terms=2, kills=1, refreshed=True, serve_stale=True)
STALE_OWN = replace(OWN, refreshed=True, serve_stale=True)
STALE_OWN_PATTERN = replace(STALE_OWN, own_pattern=True, log_max=1, kills=0, silent=False)
STALE_OWN_PATTERN_LONG = replace(STALE_OWN_PATTERN, kills=None, silent=True)

# --- the protocol as it is ----------------------------------------------------------------------------

HOLDS = (
    Variant("two readers of one key", TIER),
    Variant("get, load, set beside get_or_load", GET_SET),
    Variant("a value replaced beside its readers", REPLACED),
    Variant("a value replaced by two at once", REPLACED_TWICE),
    Variant("a value replaced, and a near cache", REPLACED_NEAR),
    Variant("a value replaced, and a failover", REPLACED_FAILOVER),
    Variant("a batch of two scripts", SCRIPTS),
    Variant("a batch of two scripts, with a replica", SCRIPTS_REPLICA),
    Variant("a pattern over two keys", PATTERN),
    Variant("a pattern, with a replica", PATTERN_REPLICA),
    Variant("a failover that loses writes", FAILOVER),
    Variant("the purge and a failover", PURGE),
    Variant("the purge, with a replica", PURGE_REPLICA),
    Variant("FLUSHALL", FLUSHED),
    Variant("the state evicted, then a failover", STATELESS),
    Variant("the state evicted, with a replica", STATELESS_REPLICA),
    Variant("Postgres crashes, a rolled-back xid comes back", CRASH),
    Variant("the same around a first read", CRASH_FLUSHED),
    Variant("Postgres goes back on another timeline", RESTORE),
    Variant("the same between two pages of a batch", RESTORE_PAGES),
    Variant("a dump restored in place", DUMP),
    Variant("a dump restored between two pages of a batch", DUMP_PAGES),
    Variant("a dump restored, and the purge", DUMP_PURGE),
    Variant("a replica", REPLICA),
    Variant("a near cache", NEAR),
    Variant("a near cache and a pattern", NEAR_PATTERN),
    Variant("a near cache and a batch of two scripts", NEAR_SCRIPTS, long=True),
    Variant("a near cache and FLUSHALL, two transactions", NEAR_FLUSHED, long=True),
    Variant("a near cache and FLUSHALL", NEAR_FLUSHED_ONE),
    Variant("a near cache and a failover", NEAR_FAILOVER),
    Variant("two leaders", LEADERS),
    Variant("two leaders, killed, and a failover", LEADERS_FAILOVER),
    Variant("no run id: a failover that loses writes", NO_RUN),
    Variant("no run id: the same in a batch of two scripts", NO_RUN_SCRIPTS),
    Variant("no run id: a near cache and a failover", NO_RUN_NEAR, long=True),
    Variant("no run id: an agent's own delete is lost", NO_RUN_OWN, long=True),
    Variant("an agent's own delete", OWN),
    Variant("an agent's own delete, with a replica", OWN_REPLICA),
    Variant("an agent's own invalidate_pattern", OWN_PATTERN, long=True),
    Variant("a key made new, beside its readers", REFRESH),
    Variant("the same with stale values", STALE),
    Variant("stale values and a purge", STALE_PURGE),
    Variant("stale values and a pattern", STALE_PATTERN),
    Variant("stale values, a purge and a failover", STALE_FAILOVER),
    Variant("stale values and a lost position", STALE_LOST),
    Variant("stale values and a near cache", STALE_NEAR),
    Variant("stale values and two leaders", STALE_LEADERS),
    Variant("stale values and an agent's own delete", STALE_OWN),
    Variant("stale values and an agent's own invalidate_pattern", STALE_OWN_PATTERN),
    Variant("stale values, three transactions", STALE_THREE),
    Variant("stale values, a purge, a failover, and keys made new", STALE_FAILOVER_MADE_NEW, long=True),
    Variant("stale values, keys made new and a near cache", STALE_NEAR_MADE_NEW, long=True),
    Variant("stale values, invalidate_pattern and losses", STALE_OWN_PATTERN_LONG, long=True),
    Variant("tokens and a crash of Postgres", TOKENS),
    Variant("tokens, killed workers and a crash of Postgres", TOKENS_LONG, long=True),
    Variant("tokens and Postgres going back", TOKENS_RESTORE, long=True),
    Variant("tokens and a dump restored in place", TOKENS_DUMP, long=True),
    Variant("two readers, three transactions", TIER_LONG, long=True),
    Variant("a replica, two readers, three transactions", REPLICA_LONG, long=True),
    Variant("two reads of one agent", TWO_READS, long=True),
    Variant("a near cache, three transactions", NEAR_LONG, long=True),
    Variant("a near cache and a failover, two transactions", NEAR_FAILOVER_LONG, long=True),
    Variant("a near cache and two failovers", NEAR_FAILOVERS, long=True),
    Variant("two agents", TWO_AGENTS, long=True),
    Variant("two agents and a failover", TWO_AGENTS_FAILOVER, long=True),
    Variant("two leaders, killed, and a failover, three terms", LEADERS_FAILOVER_LONG, long=True),
    Variant("two leaders and a near cache", LEADERS_NEAR),
    Variant("an agent's own delete without LSN, with a replica", OWN_NO_LSN, long=True),
    Variant("an agent's own delete, with a replica, two reads", OWN_REPLICA_LONG, long=True),
    Variant("an agent's own invalidate_pattern, with a replica", OWN_PATTERN_REPLICA, long=True),
    Variant("another agent's delete", OWN_TWO_AGENTS, long=True),
    Variant("tokens, pages and the purge", TOKENS_PAGES, long=True),
)

# --- a defence is off, and something breaks -----------------------------------------------------------

CAUGHT = (
    Variant("no lease", TIER, (D.LEASE,)),
    Variant("fill without compare", TIER, (D.FILL_COMPARES,)),
    Variant("set without the lease of its miss", GET_SET, (D.SET_FILLS,)),
    Variant("a value replaced without compare", REPLACED, (D.REPLACE_COMPARES,)),
    Variant("no marks", NEAR, (D.MARKS,)),
    Variant("a mark opened after the GET", NEAR, (D.MARK_FIRST,)),
    Variant("a flush that leaves reads clean", NEAR, (D.FLUSH_SOILS,)),
    Variant("the position stored by the first script", SCRIPTS, (D.POSITION_LAST,)),
    Variant("the position stored before the effects", TIER, (D.POSITION_WITH_EFFECTS,)),
    Variant("a cursor instead of a snapshot", TIER_LONG, (D.POSITION_SNAPSHOT,)),
    Variant("the position not cut", CRASH, (D.POSITION_CUT,)),
    Variant("the first position not cut", CRASH_FLUSHED, (D.RECOVER_CUT,)),
    Variant("position and run not compared", FAILOVER, (D.POSITION_COMPARED, D.RUN_COMPARED)),
    Variant("the run not compared: a leader never notices", LEADERS_FAILOVER, (D.RUN_COMPARED,)),
    Variant("no new epoch after a failover", NEAR_FAILOVER, (D.NEW_EPOCH, D.RUN_COMPARED)),
    Variant("the run only in the worker's memory", NEAR_FAILOVER, (D.RUN_STORED, D.RUN_COMPARED)),
    Variant("a run that comes back", NEAR_FAILOVERS, (D.RUN_UNIQUE,), long=True),
    Variant("epochs that are counted", NEAR_FLUSHED, (D.EPOCH_RANDOM,)),
    Variant("no run id: no stamp", NO_RUN_SCRIPTS, (D.STAMP,)),
    Variant("no run id: a new worker goes on with the epoch", NO_RUN_NEAR, (D.BEGIN_EPOCH,), long=True),
    Variant("no run id: a lost id comes again", NO_RUN_OWN, (D.SKIPPED_IDS,), long=True),
    Variant("no run id: any watermark attaches again", NO_RUN_OWN, (D.READ_AFTERWARDS,), long=True),
    Variant("the horizon not looked at", PURGE, (D.HORIZON,)),
    Variant("the identity not looked at: another timeline", RESTORE, (D.IDENTITY,)),
    Variant("the identity not looked at: a dump restored", DUMP, (D.IDENTITY,)),
    Variant("only server and timeline compared: a dump restored", DUMP, (D.OWN_OBJECTS,)),
    Variant("later pages not judged: another timeline", RESTORE_PAGES, (D.LATER_PAGES,)),
    Variant("later pages not judged: a dump restored", DUMP_PAGES, (D.LATER_PAGES,)),
    Variant("later pages not judged: the purge", TOKENS_PAGES, (D.LATER_PAGES,)),
    Variant("recovery without drops", STATELESS, (D.RECOVER_DROPS,)),
    Variant("recovery drops, then takes its snapshot", STATELESS, (D.RECOVER_SNAPSHOT_FIRST,)),
    Variant("recovery on another run than before its snapshot", STATELESS, (D.RECOVER_RUN,)),
    Variant("a pattern dropped after the position was stored", PATTERN, (D.DROP_LAST,)),
    Variant("announced before it is removed", NEAR, (D.PUBLISH_AFTER,)),
    Variant("no prev", NEAR, (D.PREV,)),
    Variant("no watermark", NEAR, (D.WATERMARK,)),
    Variant("replay first, noticed losses only", NEAR_NOTICED, (D.SUBSCRIBE_FIRST, D.WATERMARK)),
    Variant("a log that does not reach back is believed", NEAR, (D.REPLAY_COMPLETE,)),
    Variant("a Redis that went back is believed", NEAR_FAILOVER, (D.DOUBT,)),
    Variant("a log of another run is believed", NEAR_FAILOVER, (D.REPLAY_RUN,)),
    Variant("a watermark of the epoch before attaches", NEAR_FAILOVER, (D.READ_EPOCH,)),
    Variant("replicas read without need_lsn", REPLICA, (D.NEED_LSN,)),
    Variant("the LSN read before the entries", REPLICA, (D.NEED_LSN_AFTER_READ,)),
    Variant("need_lsn read before the lease", REPLICA, (D.NEED_LSN_AFTER_LEASE,)),
    Variant("only the last script raises need_lsn", SCRIPTS_REPLICA, (D.NEED_LSN_EACH_SCRIPT,)),
    Variant("a pattern drops before need_lsn", PATTERN_REPLICA, (D.NEED_LSN_BEFORE_DROP,)),
    Variant("recovery drops before need_lsn", PURGE_REPLICA, (D.NEED_LSN_BEFORE_DROP,)),
    Variant("own delete does not raise need_lsn", OWN_REPLICA, (D.NEED_LSN_DIRECT,)),
    Variant("own delete without LSN sends nobody to the primary", OWN_NO_LSN, (D.PRIMARY_UNTIL,)),
    Variant("primary_until cleared by any watermark", OWN_NO_LSN, (D.PRIMARY_UNTIL_READ_FIRST,)),
    Variant("a replica that is behind answers", OWN_REPLICA, (D.PRIMARY_FALLBACK,)),
    Variant("past another's lease a replica answers", OWN_REPLICA_LONG, (D.PRIMARY_BYPASS,)),
    Variant("delete leaves the local copy", OWN, (D.DELETE_DROPS,)),
    Variant("invalidate_pattern says so once, with a replica", OWN_PATTERN_REPLICA, (D.PATTERN_TWICE,)),
    Variant("a stale value's life prolonged", STALE, (D.STALE_LIFE,)),
    Variant("a purge as one of many rules", STALE_PURGE, (D.PURGE_WINS,)),
    Variant("a purge that leaves the stale value", STALE_PURGE, (D.PURGE_DROPS_STALE,)),
    Variant("a pattern that leaves the stale value", STALE_PATTERN, (D.DROPS_STALE,)),
    Variant("a recovery that leaves the stale value", STALE_LOST, (D.DROPS_STALE,)),
    Variant("a stale value kept in a near cache", STALE_NEAR, (D.STALE_NOT_KEPT,)),
    Variant("delete leaves the stale value", STALE_OWN, (D.DIRECT_DROPS_STALE,)),
    Variant("invalidate_pattern scans stale values first", STALE_OWN_PATTERN, (D.KEYS_THEN_STALE,)),
    Variant("queued after the removal", REFRESH, (D.QUEUED_WITH_EFFECTS,)),
    Variant("taken out of the refresh set before it is filled", REFRESH, (D.CLAIM_KEEPS,)),
    Variant("called done although the fill was refused", REFRESH, (D.DONE_COMPARES,)),
    Variant("replay of any epoch", NEAR_FAILOVER, (D.REPLAY_EPOCH,), long=True),
    Variant("tokens by xid alone: a crash", TOKENS, (D.TOKEN_DURABLE,)),
    Variant("tokens by xid alone: Postgres going back", TOKENS_RESTORE, (D.TOKEN_DURABLE,)),
)

# --- a defence is off, and another one covers for it --------------------------------------------------

MASKED = (
    Variant(
        "a fill leaves the stale value", STALE, (D.FILL_DROPS_STALE,), "the value is read first; the bound"
    ),
    Variant("no fence", LEADERS_FAILOVER, (D.FENCE,), "the position is compared; the fence keeps the peace"),
    Variant(
        "no run id: a reconnect that keeps the near cache",
        NO_RUN_OWN,
        (D.RECONNECT_DROPS,),
        "ids that were skipped; it is for the one in 65,536 that comes again all the same",
        long=True,
    ),
    Variant("the position not compared", LEADERS_FAILOVER, (D.POSITION_COMPARED,), "fence, run and epoch"),
    Variant("the epoch not compared", LEADERS_FAILOVER, (D.EPOCH_COMPARED,), "run and position"),
    Variant("replay first", NEAR, (D.SUBSCRIBE_FIRST,), "the watermark after it exposes the gap"),
    Variant(
        "trusted without a watermark",
        NEAR,
        (D.ATTACH_ON_WATERMARK,),
        "replay read epoch and log at once",
        long=True,
    ),
    Variant(
        "kept while detached",
        NEAR,
        (D.KEEP_ATTACHED,),
        "replay and the watermark that attaches again",
        long=True,
    ),
    Variant(
        "filled without an epoch", STATELESS_REPLICA, (D.LIVE_FILL,), "recovery's drops and its need_lsn"
    ),
    Variant(
        "a log behind is believed", NEAR_FAILOVER, (D.LOG_BEHIND,), "doubt, and the new epoch", long=True
    ),
)
# --- what is not promised -----------------------------------------------------------------------------

LIMITS = (Variant("a copied data folder on the same timeline, looked at too late", COPY),)

ALL = {"holds": HOLDS, "caught": CAUGHT, "masked": MASKED, "limit": LIMITS}
