"""Every rule of the protocol that can be switched off, by the name of the code that keeps it."""

from enum import StrEnum


class Defence(StrEnum):
    """A rule; the text says what it demands and where it lives.

    It is a str for its hash, which is asked for millions of times: that of a plain Enum is a Python function.
    """

    # --- reads and fills
    LEASE = "a miss takes a lease before it loads (SharedTier.acquire)"
    FILL_COMPARES = "fill.lua stores only where the lease still stands"
    SET_FILLS = "set stores only under the lease of the get that missed (Writer.set)"
    LIVE_FILL = "a fill stores nothing while the state has no epoch (fill.lua)"
    REPLACE_COMPARES = "a value is replaced only where the lease put on it stands (replace.lua, fill.lua)"
    MARKS = "what was invalidated while it was read does not enter the near cache (InFlightReads)"
    MARK_FIRST = "a read is registered as in flight before Redis is asked (ReadPath.read)"
    FLUSH_SOILS = "a flush invalidates every read in flight (LocalState.flush)"
    KEEP_ATTACHED = "only an attached agent keeps what it read (LocalState.keep)"

    # --- the position
    POSITION_LAST = "only the last script of a batch stores the position (Applier.apply)"
    POSITION_WITH_EFFECTS = "the position is stored by the script that removes the keys (apply.lua)"
    POSITION_SNAPSHOT = "the position is a snapshot, not the highest xid seen (unstale.read)"
    POSITION_CUT = "the position is cut at the highest xid delivered (unstale.cut in unstale.read)"
    RECOVER_CUT = "so is the one of a first read (unstale.read without a position)"
    POSITION_COMPARED = "a script requires the position that was read (refusal)"
    EPOCH_COMPARED = "a script requires the epoch that was read (refusal)"
    RUN_COMPARED = "a script requires the live server's run (refusal)"
    FENCE = "a script requires the worker's own fence (refusal)"

    # --- histories
    NEW_EPOCH = "another run begins a new epoch (new_epoch.lua)"
    RUN_STORED = "the run is stored beside the epoch, so a restarted worker sees a failover (State.run)"
    RUN_UNIQUE = "a run never comes back (master_replid)"
    EPOCH_RANDOM = "an epoch is random, never counted (Applier.new_epoch)"
    HORIZON = "a position that the horizon is not part of counts as none (unstale.covers)"
    IDENTITY = "the position of another history of the database counts as none (standing_after_read)"
    OWN_OBJECTS = "the identity names database and outbox, not only server and timeline (unstale.database)"
    LATER_PAGES = "every page of a batch is judged, not the first alone (standing_after_read)"
    RECOVER_SNAPSHOT_FIRST = "recovery takes its snapshot, then drops (Applier.recover)"
    RECOVER_DROPS = "recovery drops every owned key (Applier._drop)"
    RECOVER_RUN = "recover.lua requires the run seen before the snapshot"
    DROP_LAST = "a pattern is dropped before the script that says so (Applier.apply)"

    # --- without a run id
    STAMP = "a script requires the stamp that the worker's own last script left (refusal)"
    BEGIN_EPOCH = "a worker that reads the state anew begins a new epoch (Applier.state)"
    SKIPPED_IDS = "an agent's own log entry skips ids, so that a lost id does not come again (append)"
    READ_AFTERWARDS = (
        "after a reconnect only a watermark attaches whose read began afterwards (Freshness.connected)"
    )
    RECONNECT_DROPS = "a new connection of an agent drops the near cache (Subscriber._process)"

    # --- the log
    PUBLISH_AFTER = "keys are unlinked before anybody is told (apply.lua)"
    PREV = "an invalidation names the one before it (Subscriber._invalidate)"
    WATERMARK = "watermarks name the newest id (Subscriber._watermark)"
    ATTACH_ON_WATERMARK = (
        "a new subscription is trusted from a watermark on, heard or in the state (Freshness)"
    )
    READ_EPOCH = "a watermark in the state counts in its own epoch only (replay.lua)"
    SUBSCRIBE_FIRST = "subscribe, then replay (Subscriber._follow_once)"
    REPLAY_COMPLETE = "a log that does not reach back drops everything (Subscriber._replay)"
    REPLAY_EPOCH = "replay reads epoch and log together (replay.lua)"
    LOG_BEHIND = "a log behind what was seen drops everything (Subscriber._replay)"
    DOUBT = "after a lost connection or another epoch Redis is not believed (Freshness.doubt)"
    REPLAY_RUN = "nor is it while its epoch is of another run (replay.lua, Freshness.recognize)"

    # --- read replicas
    NEED_LSN = "a loader reads a replica only if it has replayed need_lsn (Load)"
    NEED_LSN_AFTER_READ = "the LSN of a page is read after its entries (unstale.read)"
    NEED_LSN_AFTER_LEASE = "need_lsn is read after the lease was taken (SharedTier.acquire)"
    NEED_LSN_EACH_SCRIPT = "each script of a batch raises need_lsn (apply.lua)"
    NEED_LSN_BEFORE_DROP = "need_lsn is raised before a pattern or recovery drops keys (drop.lua)"
    NEED_LSN_DIRECT = "a delete that knows its LSN raises need_lsn (direct.lua)"
    PRIMARY_UNTIL = "a delete without LSN sends loaders to the primary (direct.lua)"
    PRIMARY_UNTIL_READ_FIRST = "primary_until is cleared only if it stood before the read (publish_seen)"
    PRIMARY_FALLBACK = "a replica that is behind is not read at all (Load)"
    PRIMARY_BYPASS = "who loads past another's lease reads the primary (ReadPath._fetch)"

    # --- refreshes
    STALE_LIFE = "a later invalidation does not prolong a stale value's life (apply.lua)"
    PURGE_WINS = "a purge wins over the other rules of its batch (Plan.purged)"
    PURGE_DROPS_STALE = "a purge removes the stale value too (apply.lua)"
    DROPS_STALE = "what a pattern or recovery drops goes with its stale value (Applier._drop)"
    STALE_NOT_KEPT = "a stale value never enters a near cache (ReadPath._read_or_stale)"
    DIRECT_DROPS_STALE = "delete removes the stale value too (direct.lua)"
    KEYS_THEN_STALE = "invalidate_pattern scans the keys, then the stale values (Writer.invalidate_pattern)"
    FILL_DROPS_STALE = "a fill removes the stale value (fill.lua)"
    QUEUED_WITH_EFFECTS = "the script that removes a key puts it into the refresh set (apply.lua)"
    CLAIM_KEEPS = "who takes a key to make it new leaves it in the refresh set (refresh_claim.lua)"
    DONE_COMPARES = "a key leaves the refresh set only with a fill whose lease stood (fill.lua)"

    # --- own writes
    DELETE_DROPS = "delete drops the local copy before it returns (Writer._invalidate)"
    PATTERN_TWICE = "invalidate_pattern says so before and after its scan (Writer.invalidate_pattern)"
    TOKEN_DURABLE = "a token counts only against watermarks of its own history (TokenWaits)"
