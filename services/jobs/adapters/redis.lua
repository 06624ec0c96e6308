-- Every change of a job and its queue, each of them atomic.
--
-- ARGV[1] is the key prefix, ARGV[2] the command, ARGV[3] its arguments as msgpack. The tables JOB and ITEM (state ->
-- change -> state) and ENDED come before this text, made from services/jobs/job.py; so do LOG_MS and LOG_MOST, how long
-- and how many events of a tenant are kept.
--
--   <p>tenants           zset    tenants with work, by when they were last served: work is handed out in turns
--   <p>delayed           zset    work to be queued again, by when
--   <p>resuming          list    jobs whose items are being queued again, a page at a time
--   <p>bell              stream  of one entry that changes when there is new work
--   <p>purging           zset    tenants with ended jobs, by when the first of them is forgotten
--   <p>fence             string  the last fence given; see lock
--   <p>erased            set     tenants nothing is kept for any more; whoever is late with something is refused
--   <p>logs              hash    tenant -> sequence of its last event; ":news", ":outbox" count what they are called by
--   <p>news              zset    tenants with events, by the turn of the last
--   <p>rung              stream  of one entry that changes when there are new events
--   <p>schema            string  version of all this; see redis_schema.py
--   <p><t>:queue         stream  work to do; group "workers", whose pending entries are the leases
--   <p><t>:list, :purge  zset    jobs by create time; ended jobs by when they are forgotten
--   <p><t>:job:<j>       hash    what changes of a job          <p><t>:about:<j>  string  what does not
--   <p><t>:items:<j>     hash    number -> record (see item())  <p><t>:specs:<j>  hash    number -> what to import
--   <p><t>:events:<j>    stream  ids are <sequence>-0           <p><t>:docs:<j>   set     documents: FULL imports, and rows
--   <p><t>:dead          set     jobs with dead letters         <p><t>:failed:<j> zset    their items, by when they failed
--   <p><t>:lock:<d>      string  who works on a document        <p><t>:once:<r>   hash    what a request id stands for
--   <p><t>:sole:<s>      string  which of the jobs that have this in common is the one that has not ended
--   <p><t>:log           stream  events of all kinds, see happened(); ids are <sequence>-0
--   <p><t>:synced:<c>    string  what a collection's directory looked like; see redis_marks.py

local P = ARGV[1]
local A = cmsgpack.unpack(ARGV[3])
local call = redis.call
local GROUP = 'workers'
local EXPAND, SWEEP = 0, -1
local RATE_SLOT_MS, RATE_SLOTS = 5000, 12
local RESUMED_AT_ONCE = 500
local TORN = 2
local PROGRESS_MS = 1000
local LOGS, NEWS, RUNG = P .. 'logs', P .. 'news', P .. 'rung'

local clock = call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function key(tenant, kind, id)
  return P .. tenant .. ':' .. kind .. (id and (':' .. id) or '')
end

local function changed(transitions, state, change)
  local to = transitions[state] and transitions[state][change]
  if not to then error({err = 'ILLEGAL ' .. state .. ' ' .. change}) end
  return to
end

local function may(state, change)
  return JOB[state] and JOB[state][change]
end

-- The log of a tenant: what happened in it, counted from 1 without gaps. The count outlives the entries, so that whoever
-- asks for some that are gone can be told so.

local function numbered(sequence)
  return string.format('%.0f-0', sequence)
end

-- Drops what is older than LOG_MS of a log whose entry `first` is.
local function forget_old(log, first, last)
  while last - first > 1 do
    local middle = math.floor((first + last) / 2)
    local entry = call('XRANGE', log, numbered(middle), numbered(middle))[1]
    if entry and tonumber(entry[2][2]) > NOW - LOG_MS then last = middle else first = middle end
  end
  call('XTRIM', log, 'MINID', numbered(last))
end

local heard = {}

-- `by` is the traceparent of the call that it came of, '' where none is known.
local function happened(tenant, by, topic, ...)
  local log, sequence = key(tenant, 'log'), call('HINCRBY', LOGS, tenant, 1)
  local oldest = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  -- A tenth late, so that it is looked for seldom.
  if oldest and tonumber(oldest[2][2]) < NOW - 1.1 * LOG_MS then
    forget_old(log, tonumber(string.match(oldest[1], '%d+')), sequence)
  end
  call('XADD', log, 'MAXLEN', '~', LOG_MOST, numbered(sequence), 't', NOW, 'e', cmsgpack.pack({topic, ...}), 'b', by)
  call('PEXPIRE', log, LOG_MS)
  if not heard[tenant] then
    heard[tenant] = true
    call('ZADD', NEWS, call('HINCRBY', LOGS, ':news', 1), tenant)
    call('XADD', RUNG, 'MAXLEN', 1, '*', 'n', 1)
  end
end

-- Jobs

local NUMBERS = {'total', 'final', 'succeeded', 'failed', 'skipped', 'chunks', 'bytes', 'running', 'committing', 'seq',
  'attempt', 'create', 'start', 'update', 'end', 'purge', 'revision', 'broken', 'full', 'swept', 'retention', 'retried',
  'resuming', 'resumed', 'doubtful', 'logged', 'behind'}
local TEXTS = {'state', 'error', 'checkpoint', 'rates', 'collection', 'uid', 'type', 'asked', 'sole', 'by'}

local function load_job(tenant, id)
  local flat = call('HGETALL', key(tenant, 'job', id))
  if #flat == 0 then return nil end
  local job = {tenant = tenant, id = id}
  for i = 1, #flat, 2 do job[flat[i]] = flat[i + 1] end
  for _, name in ipairs(NUMBERS) do job[name] = tonumber(job[name] or 0) end
  for _, name in ipairs(TEXTS) do job[name] = job[name] or '' end
  if job.purge > 0 and job.purge <= NOW then return nil end -- its keys are about to expire
  return job
end

local function save_job(job)
  job.update = NOW
  local flat = {}
  for _, name in ipairs(NUMBERS) do flat[#flat + 1] = name; flat[#flat + 1] = string.format('%.0f', job[name]) end
  for _, name in ipairs(TEXTS) do flat[#flat + 1] = name; flat[#flat + 1] = job[name] end
  call('HSET', key(job.tenant, 'job', job.id), unpack(flat))
end

local function rates_of(job)
  if job.rates ~= '' then return cmsgpack.unpack(job.rates) end
  local rates = {}
  for i = 1, RATE_SLOTS * 2 do rates[i] = 0 end
  return rates
end

local function count_in_rate(job)
  local rates, slot = rates_of(job), math.floor(NOW / RATE_SLOT_MS)
  local at = (slot % RATE_SLOTS) * 2 + 1
  if rates[at] ~= slot then rates[at] = slot; rates[at + 1] = 0 end
  rates[at + 1] = rates[at + 1] + 1
  job.rates = cmsgpack.pack(rates)
end

-- Items ended a second, over the last minute or since the first was begun, or the job was to run again.
local function rate(job)
  if job.rates == '' or ENDED[job.state] then return 0 end
  local rates, slot, count = rates_of(job), math.floor(NOW / RATE_SLOT_MS), 0
  for at = 1, RATE_SLOTS * 2, 2 do
    if rates[at] > slot - RATE_SLOTS then count = count + rates[at + 1] end
  end
  local since = math.max(job.start, job.retried, (slot - RATE_SLOTS + 1) * RATE_SLOT_MS)
  return count / math.max((NOW - since) / 1000, 0.1)
end

local function snapshot(job)
  return cmsgpack.pack({job.state, job.total, job.final, job.succeeded, job.failed, job.skipped, job.chunks, job.bytes,
    tostring(rate(job)), job.attempt, job.create, job.start, job.update, job['end'], job.purge, job.error, job.revision,
    NOW})
end

-- Items: {state, attempts, fence, entry, create, end, chunks, bytes, error, timings, committing, deaths, told}; `deaths`
-- counts the leases in a row that ended without a word, as when a worker is killed; `told` is the error in the words for
-- all who may see the job, where it has others. `committing` is 1 of what may be writing outside, which is seen through,
-- and TORN of what failed or was cancelled with something half written left behind

local function load_item(job, number)
  local packed = call('HGET', key(job.tenant, 'items', job.id), number)
  if not packed then return nil end
  local r = cmsgpack.unpack(packed)
  return {number = number, state = r[1], attempts = r[2], fence = r[3], entry = r[4], create = r[5], ['end'] = r[6],
    chunks = r[7], bytes = r[8], error = r[9], timings = r[10], committing = r[11], deaths = r[12], told = r[13] or ''}
end

-- A brief one is without what only workers and lists of items want.
local function packed_item(item, brief)
  return cmsgpack.pack({item.state, item.attempts, item.fence, brief and '' or item.entry, item.create, item['end'],
    item.chunks, item.bytes, item.error, brief and '' or item.timings, item.committing, item.deaths, item.told})
end

local function save_item(job, item)
  call('HSET', key(job.tenant, 'items', job.id), item.number, packed_item(item))
end

local function new_item(number)
  return {number = number, state = 'QUEUED', attempts = 0, fence = 0, entry = '', create = NOW, ['end'] = 0, chunks = 0,
    bytes = 0, error = '', timings = '', committing = 0, deaths = 0, told = ''}
end

-- What happened to a job, or to one document of it, for the log of its tenant.

local function job_happened(job, topic)
  job.update, job.logged, job.behind, job.told = NOW, NOW, 0, true
  happened(job.tenant, job.by, topic, job.collection, job.uid, job.id, job.type, snapshot(job))
end

local function item_happened(job, topic, item, document)
  happened(job.tenant, job.by, topic, job.collection, job.uid, job.id, job.type, item.number, packed_item(item, true),
    document)
end

-- The log is told of progress once in a while only; `behind` until it has been told of the latest.
local function progressed(job)
  if NOW - job.logged >= PROGRESS_MS then job_happened(job, 'ingestion.progress') else job.behind = 1 end
end

local function begin_job(job)
  job.state = changed(JOB, job.state, 'BEGIN')
  job_happened(job, 'ingestion.started')
end

-- Dead letters: the items that failed. Their number is the job's `failed`.

local function bury(job, item)
  call('ZADD', key(job.tenant, 'failed', job.id), NOW, item.number)
  call('SADD', key(job.tenant, 'dead'), job.id)
end

local function unbury(job, item)
  local failed = key(job.tenant, 'failed', job.id)
  call('ZREM', failed, item.number)
  if call('EXISTS', failed) == 0 then call('SREM', key(job.tenant, 'dead'), job.id) end
end

local function first_error(job)
  local first = call('ZRANGE', key(job.tenant, 'failed', job.id), 0, 0)[1]
  if not first then return '' end
  local item = load_item(job, tonumber(first))
  return item.told ~= '' and item.told or item.error
end

-- The job that another one has to wait for; false where there is none.
local function ahead_of(tenant, sole, id)
  local other = sole ~= '' and call('GET', key(tenant, 'sole', sole))
  return other and other ~= id and other
end

local function stand_alone(job)
  if job.sole ~= '' then call('SET', key(job.tenant, 'sole', job.sole), job.id) end
end

local ENDED_AS = {SUCCEEDED = 'ingestion.completed', PARTIALLY_SUCCEEDED = 'ingestion.completed',
  FAILED = 'ingestion.failed', CANCELLED = 'ingestion.cancelled'}
local KEPT = {'job', 'about', 'items', 'specs', 'events', 'failed', 'docs'}

local function end_job(job, change)
  job.state = changed(JOB, job.state, change)
  job['end'] = NOW
  job.purge = NOW + job.retention
  if job.error == '' then job.error = first_error(job) end
  if job.sole ~= '' and not ahead_of(job.tenant, job.sole, job.id) then call('DEL', key(job.tenant, 'sole', job.sole)) end
  job_happened(job, ENDED_AS[job.state])
end

local function forget_later(job)
  if job.state == 'SUCCEEDED' or (job.broken == 0 and (job.swept == 2 or (job.full == 0 and job.final == 1))) then
    call('DEL', key(job.tenant, 'docs', job.id))
  end
  for _, kind in ipairs(KEPT) do
    call('PEXPIREAT', key(job.tenant, kind, job.id), string.format('%.0f', job.purge))
  end
  call('ZADD', key(job.tenant, 'purge'), job.purge, job.id)
  call('ZADD', P .. 'purging', 'LT', job.purge, job.tenant)
end

-- An ended job is to run again: what is kept of it stays.
local function revive(job, change)
  job.state = changed(JOB, job.state, change)
  stand_alone(job)
  job.attempt, job['end'], job.purge, job.retried, job.rates = job.attempt + 1, 0, 0, NOW, ''
  if job.type == 'EVALUATE' then job.swept = 0 end -- what its queries came to is made anew
  for _, kind in ipairs(KEPT) do call('PERSIST', key(job.tenant, kind, job.id)) end
  call('ZREM', key(job.tenant, 'purge'), job.id)
end

-- Saves the job and writes down what happened: to `item`, or to the job as a whole.
local function record(job, item)
  job.seq = job.seq + 1
  if not job.told and job.state ~= 'QUEUED' then progressed(job) end
  save_job(job)
  local id = numbered(job.seq)
  if item and item.number > 0 then
    call('XADD', key(job.tenant, 'events', job.id), id, 's', snapshot(job), 'n', item.number, 'i', packed_item(item))
  else
    call('XADD', key(job.tenant, 'events', job.id), id, 's', snapshot(job))
  end
  if ENDED[job.state] then forget_later(job) end
end

-- The queue

local function erased(tenant)
  return call('SISMEMBER', P .. 'erased', tenant) == 1
end

local function ring()
  call('XADD', P .. 'bell', 'MAXLEN', 1, '*', 'w', 1)
end

local function enqueue(tenant, id, number)
  if erased(tenant) then return end
  local queue = key(tenant, 'queue')
  if call('EXISTS', queue) == 0 then call('XGROUP', 'CREATE', queue, GROUP, '0', 'MKSTREAM') end
  call('XADD', queue, '*', 'j', id, 'n', number)
  call('ZADD', P .. 'tenants', 'NX', call('GET', P .. 'turn') or 0, tenant)
end

-- An entry is gone for good. An idle tenant leaves nothing behind.
local function drop(tenant, entry)
  local queue = key(tenant, 'queue')
  call('XACK', queue, GROUP, entry)
  call('XDEL', queue, entry)
  if call('XLEN', queue) == 0 then
    call('DEL', queue)
    call('ZREM', P .. 'tenants', tenant)
  end
end

local function unlock(tenant, lock, holder)
  if lock ~= '' and call('GET', key(tenant, 'lock', lock)) == holder then call('DEL', key(tenant, 'lock', lock)) end
end

-- The item is to be done again, as if it had never been begun; only the count of its leases goes on, which fences off
-- whoever had one.
local function requeue(job, item)
  if item.state == 'FAILED' and item.number > 0 then
    job.failed = job.failed - 1
    unbury(job, item)
  end
  job.chunks, job.bytes = job.chunks - item.chunks, job.bytes - item.bytes
  item.state = changed(ITEM, item.state, 'RETRY')
  item.attempts, item.entry, item['end'], item.chunks, item.bytes = 0, '', 0, 0, 0
  item.error, item.timings, item.deaths, item.told = '', '', 0, ''
  save_item(job, item)
  enqueue(job.tenant, job.id, item.number)
end

-- Ends the job, or queues its last step, once there is nothing left to wait for.
local function settle(job)
  if job.running > 0 then return end
  if job.state == 'CANCELLING' then
    if job.committing == 0 then end_job(job, 'STOP') end
    return
  end
  if job.state ~= 'RUNNING' or job.resuming == 1 or job.final == 0 or job.succeeded + job.failed + job.skipped < job.total then return end
  if job.full == 1 and job.swept == 0 and job.broken + job.doubtful == 0 then
    job.swept = 1
    local sweep = load_item(job, SWEEP)
    if not sweep or sweep.state == 'SUCCEEDED' then
      save_item(job, new_item(SWEEP))
      enqueue(job.tenant, job.id, SWEEP)
    elseif ENDED_ITEM[sweep.state] then
      requeue(job, sweep)
    else
      enqueue(job.tenant, job.id, SWEEP)
    end
    ring()
  elseif job.swept ~= 1 then
    if job.failed + job.broken == 0 then end_job(job, 'SUCCEED')
    elseif job.succeeded + job.skipped > 0 then end_job(job, 'FAIL_SOME')
    else end_job(job, 'FAIL') end
  end
end

-- Queues the next page of what a job that was cancelled never did, and of what failed before it was to run again.
local function resume(job)
  local last = math.min(job.resumed + RESUMED_AT_ONCE, job.total)
  for number = job.resumed + 1, last do
    local item = load_item(job, number)
    if item.state == 'CANCELLED' or (item.state == 'FAILED' and item['end'] <= job.retried) then
      requeue(job, item)
    elseif item.state == 'QUEUED' and item.create <= job.retried then
      enqueue(job.tenant, job.id, number)
    end
  end
  job.resumed = last
  if last == job.total then
    job.resuming = 0
    if job.state == 'QUEUED' and job.final == 1 and job.succeeded + job.failed + job.skipped == job.total then
      begin_job(job)
    end
    settle(job)
  end
  ring()
  record(job)
end

-- What is under a lease, if the lease still holds: nothing is written by who has lost it.
local function held(a)
  if erased(a.tenant) then return nil end
  local job = load_job(a.tenant, a.job)
  if not job or ENDED[job.state] then return nil end
  local item = load_item(job, a.number)
  if not item or item.state ~= 'RUNNING' or item.fence ~= a.fence then return nil end
  return job, item
end

local function leave(job, item, change, torn)
  if item.state == 'RUNNING' then job.running = job.running - 1 end
  item.state = changed(ITEM, item.state, change)
  if ENDED_ITEM[item.state] then
    item['end'] = NOW
    if item.committing == 1 then job.committing = job.committing - 1 end
    item.committing = (torn == 1 or (item.committing == TORN and change == 'CANCEL')) and TORN or 0
  end
end

-- Makes an entry of the queue ours; nil where there is nothing to do for it any more.
local function take(tenant, entry, id, number)
  local job = load_job(tenant, id)
  local item = job and not ENDED[job.state] and load_item(job, number)
  if not item or ENDED_ITEM[item.state] or (item.state == 'RUNNING' and item.entry ~= entry) then
    drop(tenant, entry)
    return nil
  end
  if job.state == 'CANCELLING' and item.committing ~= 1 then
    drop(tenant, entry)
    if item.state == 'RUNNING' then
      leave(job, item, 'CANCEL')
      save_item(job, item)
      settle(job)
      record(job, item)
    end
    return nil
  end
  if item.state == 'QUEUED' then job.running = job.running + 1 else item.deaths = item.deaths + 1 end
  item.state = changed(ITEM, item.state, 'LEASE')
  item.entry = entry
  item.attempts = item.attempts + 1
  item.fence = item.fence + 1
  save_item(job, item)
  if number > 0 and job.start == 0 then job.start = NOW end
  if job.state == 'QUEUED' then
    begin_job(job)
    record(job)
  else
    save_job(job)
  end
  local spec = number > 0 and call('HGET', key(tenant, 'specs', id), number) or ''
  return {tenant, id, number, entry, item.fence, item.attempts, item.deaths, item.committing, item.chunks,
    spec, job.checkpoint, job.total, job.by}
end

-- The next entry of a tenant: first one whose lease has run out, then one that nobody had.
local function next_entry(tenant, worker, lease_ms)
  local queue = key(tenant, 'queue')
  local late = call('XPENDING', queue, GROUP, 'IDLE', lease_ms, '-', '+', 1)
  if #late > 0 then
    local claimed = call('XCLAIM', queue, GROUP, worker, lease_ms, late[1][1])
    if claimed[1] and claimed[1][2] then return claimed[1] end
    drop(tenant, late[1][1])
    return nil
  end
  local read = call('XREADGROUP', 'GROUP', GROUP, worker, 'COUNT', 1, 'STREAMS', queue, '>')
  return read and read[1] and read[1][2][1]
end

local function queue_what_is_due()
  local due = call('ZRANGEBYSCORE', P .. 'delayed', '-inf', NOW, 'LIMIT', 0, 100)
  for _, member in ipairs(due) do
    call('ZREM', P .. 'delayed', member)
    local work = cmsgpack.unpack(member)
    enqueue(work[1], work[2], work[3])
  end
end

-- A page of one of the jobs that are being resumed, in turns; whether there is another.
local function resume_one()
  local packed = call('LPOP', P .. 'resuming')
  if not packed then return false end
  local named = cmsgpack.unpack(packed)
  local job = not erased(named[1]) and load_job(named[1], named[2])
  if job and job.resuming == 1 and not ENDED[job.state] and job.state ~= 'CANCELLING' then
    resume(job)
    if job.resuming == 1 then call('RPUSH', P .. 'resuming', packed) end
  end
  return call('EXISTS', P .. 'resuming') == 1
end

-- What a request id stands for: nil when new, else {"SAME", job} or {"OTHER", digest}.
local function recalled(a)
  if a.request == '' then return nil end
  local known = call('HMGET', key(a.tenant, 'once', a.request), 'digest', 'job', 'answer')
  if not known[1] then return nil end
  if known[1] == a.digest then return {'SAME', known[2], known[3] or ''} end
  return {'OTHER', known[1]}
end

-- Keeps what a request id stands for, with the answer where that cannot be read anew. What is about a job goes with it.
local function remember(a, job, answer)
  if a.request == '' then return end
  local once = key(a.tenant, 'once', a.request)
  call('HSET', once, 'digest', a.digest, 'job', a.job or '', 'answer', answer or '')
  call('PEXPIRE', once, a.remember_ms)
  if job and a.passing ~= 1 then
    local asked = job.asked ~= '' and cmsgpack.unpack(job.asked) or {}
    asked[#asked + 1] = a.request
    job.asked = cmsgpack.pack(asked)
  end
end

-- A job is not listed any more, nor what became of it.
local function unlist(tenant, id)
  call('ZREM', key(tenant, 'list'), id)
  call('ZREM', key(tenant, 'purge'), id)
  call('SREM', key(tenant, 'dead'), id)
end

-- Notes when the tenant's next job is forgotten.
local function purge_next(tenant)
  local first = call('ZRANGE', key(tenant, 'purge'), 0, 0, 'WITHSCORES')
  if first[2] then call('ZADD', P .. 'purging', first[2], tenant) else call('ZREM', P .. 'purging', tenant) end
end

-- Ended jobs whose time has come are not listed any more, at most so many of them: how many.
local function forget_purged(tenant, limit)
  local gone = call('ZRANGEBYSCORE', key(tenant, 'purge'), '-inf', string.format('(%.0f', NOW), 'LIMIT', 0, limit or -1)
  for _, id in ipairs(gone) do unlist(tenant, id) end
  if #gone > 0 then purge_next(tenant) end
  return #gone
end

local function add_items(job, specs, documents, distinct)
  local items, texts = {}, {}
  for i, spec in ipairs(specs) do
    local item = new_item(job.total + i)
    texts[#texts + 1] = item.number; texts[#texts + 1] = spec
    items[#items + 1] = item.number; items[#items + 1] = packed_item(item)
    enqueue(job.tenant, job.id, item.number)
  end
  for from = 1, #items, 2000 do
    local to = math.min(from + 1999, #items)
    call('HSET', key(job.tenant, 'specs', job.id), unpack(texts, from, to))
    call('HSET', key(job.tenant, 'items', job.id), unpack(items, from, to))
  end
  if job.full == 1 or distinct == 1 then
    for _, document in ipairs(documents) do call('SADD', key(job.tenant, 'docs', job.id), document) end
  end
  job.total = job.total + #specs
end

local C = {}

-- Answers, as every command does: on data of this version.
function C.ping()
  return 'OK'
end

-- What a request id stands for, before work is done for it.
function C.recall(a)
  return recalled(a) or {'NEW'}
end

-- Records a job and queues it: its items where they are known, else the listing of its source. {"NEW", job}; or as
-- `recalled`; or {"BUSY", the other} where another one keeps it from running; or {"ERASED"}.
function C.submit(a)
  if erased(a.tenant) then return {'ERASED'} end
  local known = recalled(a)
  if known then return known end
  if call('EXISTS', key(a.tenant, 'job', a.job)) == 1 then return {'SAME', a.job} end
  local other = ahead_of(a.tenant, a.sole, a.job)
  if other then return {'BUSY', other} end
  forget_purged(a.tenant)
  local job = {tenant = a.tenant, id = a.job}
  for _, name in ipairs(NUMBERS) do job[name] = 0 end
  for _, name in ipairs(TEXTS) do job[name] = '' end
  job.state, job.attempt, job.create, job.full, job.retention = 'QUEUED', 1, NOW, a.full, a.retention_ms
  job.collection, job.uid, job.type, job.sole, job.by = a.collection, a.uid, a.type, a.sole, a.by
  stand_alone(job)
  remember(a, job)
  call('SET', key(a.tenant, 'about', a.job), a.about)
  call('ZADD', key(a.tenant, 'list'), NOW, a.job)
  if #a.specs > 0 then
    job.final = 1
    add_items(job, a.specs, a.documents)
  else
    save_item(job, new_item(EXPAND))
    enqueue(a.tenant, a.job, EXPAND)
  end
  ring()
  record(job)
  return {'NEW', a.job}
end

-- Jobs as they are now, in the order asked for; those that are gone are left out.
function C.read(a)
  local found = {}
  for _, id in ipairs(a.jobs) do
    local job = load_job(a.tenant, id)
    if job then found[#found + 1] = {id, snapshot(job)} end
  end
  return found
end

-- Ids of all jobs, the oldest first.
function C.list(a)
  forget_purged(a.tenant)
  return call('ZRANGE', key(a.tenant, 'list'), 0, -1)
end

-- How many jobs there are, and the ids of some of them by age, from after one or from a place on; false in place of the
-- ids where that one is gone.
function C.by_age(a)
  forget_purged(a.tenant)
  local list, from = key(a.tenant, 'list'), a.skip
  if a.after ~= '' then
    local rank = call(a.newest == 1 and 'ZREVRANK' or 'ZRANK', list, a.after)
    if not rank then return {call('ZCARD', list), false} end
    from = rank + 1
  end
  return {call('ZCARD', list), call(a.newest == 1 and 'ZREVRANGE' or 'ZRANGE', list, from, from + a.count - 1)}
end

-- Of jobs, in the order asked for, what lists look at; false for those that are gone.
function C.brief(a)
  local found = {}
  for i, id in ipairs(a.jobs) do
    local brief = call('HMGET', key(a.tenant, 'job', id), 'state', 'create', 'update', 'end', 'collection', 'type')
    found[i] = brief[1] and brief
  end
  return found
end

-- The job that a caller wants to change, or the answer: as `recalled`; or {"MISSING"}, or {"CHANGED"} where a state is
-- given and is not the job's.
local function wanted(a)
  if erased(a.tenant) then return nil, {'MISSING'} end
  local known = recalled(a)
  if known then return nil, known end
  local job = load_job(a.tenant, a.job)
  if not job then return nil, {'MISSING'} end
  if a.state ~= '' and (a.state ~= job.state or a.attempt ~= job.attempt) then return nil, {'CHANGED'} end
  return job
end

-- {"OK", job}; or as `wanted`; or {"REFUSED"} where the job has ended otherwise.
function C.cancel(a)
  local job, answer = wanted(a)
  if not job then return answer end
  if ENDED[job.state] and job.state ~= 'CANCELLED' then return {'REFUSED'} end
  remember(a, job)
  if job.state == 'CANCELLING' or job.state == 'CANCELLED' then
    call('HSET', key(a.tenant, 'job', a.job), 'asked', job.asked)
    return {'OK', a.job}
  end
  if JOB[job.state].CANCEL == 'CANCELLED' then
    end_job(job, 'CANCEL')
  else
    job.state = changed(JOB, job.state, 'CANCEL')
    settle(job)
  end
  record(job)
  return {'OK', a.job}
end

-- {"OK", job}; or as `wanted`; or {"REFUSED"} where the job has not ended, or well; or {"BUSY", the other} where another one
-- keeps it from running; or {"FORGOTTEN"} where the documents of a FULL import are not known any more.
function C.retry(a)
  local job, answer = wanted(a)
  if not job then return answer end
  if not may(job.state, 'RETRY') then return {'REFUSED'} end
  local other = ahead_of(a.tenant, job.sole, job.id)
  if other then return {'BUSY', other} end
  local expand, sweep = load_item(job, EXPAND), load_item(job, SWEEP)
  local swept = sweep and sweep.state == 'SUCCEEDED'
  if job.full == 1 and not swept and job.total > 0 and call('EXISTS', key(a.tenant, 'docs', a.job)) == 0 then
    return {'FORGOTTEN'}
  end
  remember(a, job)
  revive(job, 'RETRY')
  job.by = a.by
  job.error, job.broken, job.resuming, job.resumed = '', 0, 1, 0
  if not swept then job.swept = 0 end
  if expand and expand.state ~= 'SUCCEEDED' then
    job.final = 0
    if ENDED_ITEM[expand.state] then requeue(job, expand) else enqueue(a.tenant, a.job, EXPAND) end
  end
  resume(job)
  if job.resuming == 1 then call('RPUSH', P .. 'resuming', cmsgpack.pack({a.tenant, a.job})) end
  return {'OK', a.job}
end

-- {"GONE", job, what it was}; or as `wanted`; or {"REFUSED"} while the job has not ended.
function C.delete(a)
  local job, answer = wanted(a)
  if not job then return answer end
  if not ENDED[job.state] then return {'REFUSED'} end
  local was = cmsgpack.pack({snapshot(job), call('GET', key(a.tenant, 'about', a.job))})
  for _, request in ipairs(job.asked ~= '' and cmsgpack.unpack(job.asked) or {}) do
    call('DEL', key(a.tenant, 'once', request))
  end
  remember(a, nil, was)
  for _, kind in ipairs(KEPT) do call('UNLINK', key(a.tenant, kind, a.job)) end
  unlist(a.tenant, a.job)
  return {'GONE', a.job, was}
end

-- Items that failed, by job: {job, {number, when, number, when, ...}}.
function C.dead(a)
  forget_purged(a.tenant)
  local found = {}
  for _, id in ipairs(call('SMEMBERS', key(a.tenant, 'dead'))) do
    found[#found + 1] = {id, call('ZRANGE', key(a.tenant, 'failed', id), 0, -1, 'WITHSCORES')}
  end
  return found
end

-- Queues items that failed again; a job that has ended runs again. All of them or, unless `strict`, those that can be:
-- {"OK", "", how many and their jobs}; or as `recalled`; or {"MISSING", job, item}, {"REFUSED", job} of a cancelled job,
-- {"BUSY", job, the other} of one that another one keeps from running.
function C.replay(a)
  local known = recalled(a)
  if known then return known end
  local jobs, order, found, claimed = {}, {}, {}, {}
  for _, letter in ipairs(a.letters) do
    local id, number = letter[1], letter[2]
    if jobs[id] == nil then jobs[id] = not erased(a.tenant) and load_job(a.tenant, id) or false end
    local job = jobs[id]
    local failed = job and number > 0 and call('ZSCORE', key(a.tenant, 'failed', id), number)
    if not failed then
      if a.strict == 1 then return {'MISSING', id, number} end
    elseif not may(job.state, 'REPLAY') then
      if a.strict == 1 then return {'REFUSED', id} end
    elseif ahead_of(a.tenant, job.sole, id) or (claimed[job.sole] or id) ~= id then
      if a.strict == 1 then return {'BUSY', id, ahead_of(a.tenant, job.sole, id) or claimed[job.sole]} end
    else
      if job.sole ~= '' then claimed[job.sole] = id end
      if not found[id] then found[id] = {}; order[#order + 1] = id end
      found[id][#found[id] + 1] = number
    end
  end
  local count = 0
  if a.dry == 1 then
    for _, numbers in pairs(found) do count = count + #numbers end
    return {'OK', '', cmsgpack.pack({count, order})}
  end
  for _, id in ipairs(order) do
    local job = jobs[id]
    if ENDED[job.state] then revive(job, 'REPLAY') else job.state = changed(JOB, job.state, 'REPLAY') end
    job.by = a.by
    for _, number in ipairs(found[id]) do
      requeue(job, load_item(job, number))
      count = count + 1
    end
    if job.broken == 0 then job.error = first_error(job) end
    record(job)
  end
  if count > 0 then ring() end
  local answer = cmsgpack.pack({count, order})
  remember(a, nil, answer)
  return {'OK', '', answer}
end

-- Pending entries of this worker that it knows nothing of (it was killed, or an answer was lost) count as late at once.
function C.adopt(a)
  local known, count = {}, 0
  for _, entry in ipairs(a.known) do known[entry] = true end
  for _, tenant in ipairs(call('ZRANGE', P .. 'tenants', 0, -1)) do
    local queue = key(tenant, 'queue')
    for _, pending in ipairs(call('XPENDING', queue, GROUP, '-', '+', 1000, a.worker)) do
      if not known[tenant .. ' ' .. pending[1]] then
        call('XCLAIM', queue, GROUP, a.worker, 0, pending[1], 'IDLE', 1000000000, 'JUSTID')
        count = count + 1
      end
    end
  end
  return count
end

-- Up to `slots` leases, tenants in turns but for those in `but_not`; then milliseconds until delayed work is due (-1: none), then whether to ask
-- again at once.
function C.lease(a)
  queue_what_is_due()
  local resuming = resume_one()
  local leases, looked, more = {}, 0, true
  while #leases < a.slots and more and looked < 500 do
    more = false
    for _, tenant in ipairs(call('ZRANGE', P .. 'tenants', 0, -1)) do
      if #leases == a.slots then break end
      local entry = not a.but_not[tenant] and next_entry(tenant, a.worker, a.lease_ms)
      if entry then
        more, looked = true, looked + 1
        local taken = take(tenant, entry[1], entry[2][2], tonumber(entry[2][4]))
        if taken then
          leases[#leases + 1] = taken
          if call('ZSCORE', P .. 'tenants', tenant) then
            call('ZADD', P .. 'tenants', call('INCR', P .. 'turn'), tenant)
          end
        end
      end
    end
  end
  local due = call('ZRANGE', P .. 'delayed', 0, 0, 'WITHSCORES')
  return {leases, due[2] and math.max(0, tonumber(due[2]) - NOW) or -1, (more or resuming) and 1 or 0}
end

-- Keeps leases alive. For each "OK", "LOST", or "CANCEL" where the job is being cancelled.
function C.heartbeat(a)
  local answers = {}
  for i, each in ipairs(a.leases) do
    local job, item = held(each)
    if not job then
      answers[i] = 'LOST'
    else
      call('XCLAIM', key(each.tenant, 'queue'), GROUP, a.worker, 0, item.entry, 'JUSTID')
      local lock = each.lock ~= '' and key(each.tenant, 'lock', each.lock)
      if lock and call('GET', lock) == each.holder then call('PEXPIRE', lock, a.lease_ms) end
      if job.behind == 1 and NOW - job.logged >= PROGRESS_MS then
        progressed(job)
        save_job(job)
      end
      answers[i] = job.state == 'CANCELLING' and 'CANCEL' or 'OK'
    end
  end
  return answers
end

-- One document is worked on by one item at a time: "BUSY", "LOST", or the fence of what it writes, higher than any before.
-- Fences are microseconds of the clock where that goes on, so that none is given twice even by a store that lost its data.
function C.lock(a)
  if not held(a) then return 'LOST' end
  local lock = key(a.tenant, 'lock', a.lock)
  local holder = call('GET', lock)
  if holder and holder ~= a.holder then return 'BUSY' end
  call('SET', lock, a.holder, 'PX', a.lease_ms)
  local fence = math.max(tonumber(call('GET', P .. 'fence') or 0) + 1, tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
  local given = string.format('%.0f', fence)
  call('SET', P .. 'fence', given)
  return given
end

-- Asked right before each write outside. The first such question marks the item as one to be seen through.
function C.commit(a)
  local job, item = held(a)
  if not job then return 'LOST' end
  if item.committing == 1 and item.chunks == a.chunks then return 'OK' end
  if item.committing ~= 1 then
    if job.state == 'CANCELLING' then return 'CANCEL' end
    item.committing = 1
    job.committing = job.committing + 1
    save_job(job)
  end
  item.chunks = a.chunks
  save_item(job, item)
  return 'OK'
end

-- Adds a page of items with the place to go on from. "OK", "LOST", or "CANCEL".
function C.expand(a)
  local job, item = held(a)
  if not job then return 'LOST' end
  if job.state == 'CANCELLING' then return 'CANCEL' end
  if job.total == a.total then
    add_items(job, a.specs, a.documents, a.distinct)
    if a.doubtful == 1 then job.doubtful = 1 end
    job.checkpoint = a.checkpoint
  end
  if a.final == 1 then
    job.final = 1
    leave(job, item, 'SUCCEED')
    save_item(job, item)
    drop(a.tenant, item.entry)
    settle(job)
  end
  ring()
  record(job)
  return 'OK'
end

-- Which of some documents are not among those of the job.
function C.absent(a)
  local docs, absent = key(a.tenant, 'docs', a.job), {}
  for _, document in ipairs(a.documents) do
    if call('SISMEMBER', docs, document) == 0 then absent[#absent + 1] = document end
  end
  return absent
end

-- The work is done, one way or another: state, counters, event, queue entry and, where it was the last, the job.
function C.finish(a)
  local job, item = held(a)
  if not job then return 'LOST' end
  leave(job, item, a.change, a.torn)
  item.chunks, item.bytes, item.error, item.timings = a.chunks, a.bytes, a.error, a.timings
  item.told = a.told ~= a.error and a.told or ''
  save_item(job, item)
  if a.change == 'FAIL' and a.number > 0 then bury(job, item) end
  if a.change == 'FAIL' and job.error == '' then job.error = a.told end
  if a.number > 0 then
    local counter = ({SUCCEED = 'succeeded', FAIL = 'failed', SKIP = 'skipped'})[a.change]
    if counter then
      job[counter] = job[counter] + 1
      count_in_rate(job)
    end
    job.chunks = job.chunks + a.chunks
    job.bytes = job.bytes + a.bytes
  else
    if a.change == 'FAIL' then job.broken = 1 end
    if a.number == EXPAND then job.final = 1 else job.swept = a.change == 'CANCEL' and 0 or 2 end
  end
  job.revision = math.max(job.revision, a.revision)
  local topic = a.number > 0 and job.type ~= 'PURGE' and job.type ~= 'EVALUATE' and ({SUCCEED = 'document.indexed', FAIL = 'document.failed'})[a.change]
  if topic then item_happened(job, topic, item, a.document) end
  unlock(a.tenant, a.lock, a.holder)
  drop(a.tenant, item.entry)
  settle(job)
  record(job, item)
  return 'OK'
end

-- The work is to be done later; `counted` where this was an attempt.
function C.put_back(a)
  local job, item = held(a)
  if not job then return 'LOST' end
  local entry = item.entry
  unlock(a.tenant, a.lock, a.holder)
  if job.state == 'CANCELLING' and item.committing ~= 1 then
    leave(job, item, 'CANCEL')
  else
    leave(job, item, 'PUT_BACK')
    item.entry = ''
    if a.counted == 1 then
      item.error, item.deaths = a.error, 0
    else
      item.attempts = item.attempts - 1
    end
    if a.delay_ms > 0 then
      call('ZADD', P .. 'delayed', NOW + a.delay_ms, cmsgpack.pack({a.tenant, a.job, a.number}))
    else
      enqueue(a.tenant, a.job, a.number)
    end
    ring()
  end
  save_item(job, item)
  drop(a.tenant, entry)
  settle(job)
  if a.counted == 1 or ENDED[job.state] or ENDED_ITEM[item.state] then record(job, item) else save_job(job) end
  return 'OK'
end

-- What is left to do, looked up among at most `most` tenants, jobs and webhooks: entries that nobody has and entries under
-- a lease, how much is delayed, the age of the oldest entry, leases that ran out and the longest silence over one, dead
-- letters, deliveries that wait and how late the first is.
function C.backlog(a)
  local waiting, leased, oldest, late, silence = 0, 0, NOW, 0, 0
  local tenants, seen = call('ZRANGE', P .. 'tenants', 0, a.most - 1), {}
  for _, tenant in ipairs(tenants) do
    local queue = key(tenant, 'queue')
    local first = call('XRANGE', queue, '-', '+', 'COUNT', 1)[1]
    if first then
      local held = call('XPENDING', queue, GROUP)[1]
      leased, waiting = leased + held, waiting + call('XLEN', queue) - held
      oldest = math.min(oldest, tonumber(string.match(first[1], '%d+')))
      for _, pending in ipairs(call('XPENDING', queue, GROUP, 'IDLE', a.lease_ms, '-', '+', 100)) do
        -- Of what a worker lost by being killed nobody knows since when: see adopt.
        late, silence = late + 1, math.max(silence, math.min(pending[3], NOW - tonumber(string.match(pending[1], '%d+'))))
      end
    end
  end
  local dead, looked = 0, 0
  for _, some in ipairs({tenants, call('ZRANGE', P .. 'purging', 0, a.most - 1)}) do
    for _, tenant in ipairs(some) do
      if not seen[tenant] and looked < a.most then
        seen[tenant] = true
        for _, id in ipairs(call('SRANDMEMBER', key(tenant, 'dead'), a.most - looked)) do
          looked, dead = looked + 1, dead + call('ZCARD', key(tenant, 'failed', id))
        end
      end
    end
  end
  local deliveries, due, hooks = 0, NOW, 0
  for _, tenant in ipairs(call('ZRANGE', P .. 'hooktenants', 0, a.most - 1)) do
    local first = call('ZRANGE', key(tenant, 'hookdue'), 0, a.most - hooks - 1, 'WITHSCORES')
    for i = 1, #first, 2 do
      hooks, due = hooks + 1, math.min(due, tonumber(first[i + 1]))
      deliveries = deliveries + tonumber(call('HGET', key(tenant, 'hook', first[i]), 'pending') or 0)
    end
    if hooks >= a.most then break end
  end
  return {waiting, leased, call('ZCARD', P .. 'delayed'), NOW - oldest, late, silence, dead, deliveries, NOW - due}
end

-- Forgets ended jobs whose time has come, whoever they are of, at most so many: how many.
function C.forget(a)
  local count = 0
  for _, tenant in ipairs(call('ZRANGEBYSCORE', P .. 'purging', '-inf', NOW, 'LIMIT', 0, a.limit)) do
    if count == a.limit then break end
    local gone = forget_purged(tenant, a.limit - count)
    if gone == 0 then purge_next(tenant) end
    count = count + gone
  end
  return count
end

-- Events of a tenant after a sequence, as they are kept, and the sequence of its last.
function C.log(a)
  local entries = call('XRANGE', key(a.tenant, 'log'), numbered(a.after + 1), '+', 'COUNT', a.limit)
  return {tonumber(call('HGET', LOGS, a.tenant) or 0), entries}
end

-- The sequence of a tenant's first event that is kept, where one is, and of its last.
function C.log_span(a)
  local first = call('XRANGE', key(a.tenant, 'log'), '-', '+', 'COUNT', 1)[1]
  return {first and first[1] or '', tonumber(call('HGET', LOGS, a.tenant) or 0)}
end

-- What to wait for, the latest turn, and the tenants with events since another; at first all whose events are kept.
function C.log_news(a)
  local rung = call('XREVRANGE', RUNG, '+', '-', 'COUNT', 1)[1]
  local tenants = call('ZRANGEBYSCORE', NEWS, '(' .. string.format('%.0f', a.after), '+inf')
  if a.after == 0 then
    local kept = {}
    for _, tenant in ipairs(tenants) do
      if call('EXISTS', key(tenant, 'log')) == 1 then kept[#kept + 1] = tenant else call('ZREM', NEWS, tenant) end
    end
    tenants = kept
  end
  return {rung and rung[1] or '0-0', tonumber(call('HGET', LOGS, ':news') or 0), tenants}
end

-- Changes of collections, in the order of their own sequence, each but once: what came before is passed over.
function C.log_changes(a)
  local last = tonumber(call('HGET', LOGS, ':outbox') or 0)
  for _, change in ipairs(a.changes) do
    local sequence, tenant = change[1], change[2]
    if sequence > last then
      if not erased(tenant) then happened(tenant, '', unpack(change, 3)) end
      last = sequence
    end
  end
  call('HSET', LOGS, ':outbox', string.format('%.0f', last))
  return 'OK'
end

-- The last change that was written is another from now on, unless it has moved on.
function C.log_rewind(a)
  if tonumber(call('HGET', LOGS, ':outbox') or 0) == a.seen then call('HSET', LOGS, ':outbox', a.to) end
  return 'OK'
end

-- The sequence of the last change of a collection that is in a log.
function C.log_changed()
  return tonumber(call('HGET', LOGS, ':outbox') or 0)
end

-- From now on nothing of a tenant is written; its keys are dropped from outside, whose number knows no bound.
function C.bar(a)
  call('SADD', P .. 'erased', a.tenant)
  call('ZREM', P .. 'tenants', a.tenant)
  call('ZREM', P .. 'purging', a.tenant)
  call('ZREM', NEWS, a.tenant)
  call('HDEL', LOGS, a.tenant)
  return 'OK'
end

-- The tenant's delayed work among some entries is dropped: how many.
function C.undelay(a)
  local dropped = 0
  for _, member in ipairs(a.members) do
    if cmsgpack.unpack(member)[1] == a.tenant then dropped = dropped + call('ZREM', P .. 'delayed', member) end
  end
  return dropped
end

function C.admit(a)
  call('SREM', P .. 'erased', a.tenant)
  return 'OK'
end

return C[ARGV[2]](A)
