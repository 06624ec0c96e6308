-- Webhooks and their deliveries. One script with redis.lua, which comes before this: its prefix, its NOW, its receipts.
--
--   <p>hooktenants      zset    tenants with deliveries to send, by when the first is due
--   <p><t>:hooks        zset    webhooks, by create time
--   <p><t>:hookdue      zset    webhooks with deliveries to send, by when the first is due
--   <p><t>:hookbusy     zset    lanes being sent, "<webhook> <lane>", by when their leases run out
--   <p><t>:hookread     string  sequence of the last event that deliveries were made of
--   <p><t>:hook:<w>     hash    about (Python's), state, reason, etag, create, update, failing, waking, pending; the
--                               events after `from` are for it
--   <p><t>:lanes:<w>    zset    lanes with something to send, by when; one being sent, by when its lease runs out
--   <p><t>:busy:<w>     zset    lanes being sent, by when their leases run out
--   <p><t>:waiting:<w>  zset    "<lane> <number>" of what is PENDING, in the order of a lane; all scores are 0
--   <p><t>:sends:<w>    hash    number -> delivery (see load_delivery)
--   <p><t>:bodies:<w>   hash    number -> what is sent; "by <number>" -> traceparent of the call that it came of
--   <p><t>:done:<w>     zset    numbers of what was DELIVERED, by when    <p><t>:given:<w>  zset  of what is DEAD
--
-- Deliveries of a lane are sent one after the other, the next one when the one before is DELIVERED or DEAD.

-- Tests bring their own time.
if A.now then NOW = A.now end

-- A receiver that answers again after so long is sent at once what waits for its next attempt, so many lanes at a time.
local RECOVERED_MS, WOKEN_AT_ONCE = 60000, 1000
local FORGOTTEN_AT_ONCE = 200
local HOOK_KEYS = {'hook', 'lanes', 'busy', 'waiting', 'sends', 'bodies', 'done', 'given'}
local HOOK_NUMBERS = {'create', 'update', 'from', 'failing', 'waking', 'pending'}
local HOOK_TEXTS = {'about', 'state', 'reason', 'etag'}

local function number_of(value)
  return string.format('%.0f', value)
end

local function load_hook(tenant, id)
  local flat = call('HGETALL', key(tenant, 'hook', id))
  if #flat == 0 then return nil end
  local hook = {tenant = tenant, id = id}
  for i = 1, #flat, 2 do hook[flat[i]] = flat[i + 1] end
  for _, name in ipairs(HOOK_NUMBERS) do hook[name] = tonumber(hook[name]) end
  return hook
end

local function save_hook(hook)
  local flat = {}
  for _, name in ipairs(HOOK_NUMBERS) do flat[#flat + 1] = name; flat[#flat + 1] = number_of(hook[name]) end
  for _, name in ipairs(HOOK_TEXTS) do flat[#flat + 1] = name; flat[#flat + 1] = hook[name] end
  call('HSET', key(hook.tenant, 'hook', hook.id), unpack(flat))
end

local function packed_hook(hook)
  return cmsgpack.pack({hook.id, hook.about, hook.state, hook.reason, hook.etag, hook.create, hook.update, hook.failing})
end

-- Deliveries: `slot` is the place in the schedule of attempts, `first` when the first of them was made, `due` when the
-- next is; `fence` counts the leases.
local DELIVERY = {'state', 'lane', 'topic', 'uid', 'time', 'attempts', 'fence', 'status', 'error', 'slot', 'first', 'due',
  'ended'}

local function load_delivery(hook, number)
  local packed = call('HGET', key(hook.tenant, 'sends', hook.id), number)
  if not packed then return nil end
  local delivery = {number = number}
  for i, value in ipairs(cmsgpack.unpack(packed)) do delivery[DELIVERY[i]] = value end
  return delivery
end

local function packed_delivery(delivery)
  local values = {}
  for i, name in ipairs(DELIVERY) do values[i] = delivery[name] end
  return cmsgpack.pack(values)
end

local function save_delivery(hook, delivery)
  call('HSET', key(hook.tenant, 'sends', hook.id), delivery.number, packed_delivery(delivery))
end

local function placed(delivery)
  return string.format('%s %018.0f', delivery.lane, delivery.number)
end

local function head_of(hook, lane)
  local found = call('ZRANGEBYLEX', key(hook.tenant, 'waiting', hook.id), '[' .. lane .. ' ', '(' .. lane .. '!', 'LIMIT', 0, 1)
  return found[1] and tonumber(string.sub(found[1], -18))
end

-- When a tenant's webhooks are looked at next: when the first is due, or something being sent may have ended.

local function schedule_tenant(tenant, most)
  local first = call('ZRANGE', key(tenant, 'hookdue'), 0, 0, 'WITHSCORES')
  if not first[1] then return call('ZREM', P .. 'hooktenants', tenant) end
  local due, busy = tonumber(first[2]), key(tenant, 'hookbusy')
  if most and call('ZCARD', busy) >= most then
    due = math.max(due, tonumber(call('ZRANGE', busy, 0, 0, 'WITHSCORES')[2]))
  end
  call('ZADD', P .. 'hooktenants', due, tenant)
end

local function schedule(hook, most)
  local first = call('ZRANGE', key(hook.tenant, 'lanes', hook.id), 0, 0, 'WITHSCORES')
  if not first[1] or hook.state ~= 'ENABLED' then return call('ZREM', key(hook.tenant, 'hookdue'), hook.id) end
  local due, busy = tonumber(first[2]), key(hook.tenant, 'busy', hook.id)
  if most and call('ZCARD', busy) >= most then
    due = math.max(due, tonumber(call('ZRANGE', busy, 0, 0, 'WITHSCORES')[2]))
  end
  call('ZADD', key(hook.tenant, 'hookdue'), due, hook.id)
end

-- Has lanes sent now that wait for their next attempt; 1 where there are more of them.
local function wake(hook)
  local lanes = key(hook.tenant, 'lanes', hook.id)
  local waiting = call('ZRANGEBYSCORE', lanes, '(' .. number_of(NOW), '+inf', 'LIMIT', 0, WOKEN_AT_ONCE)
  for _, lane in ipairs(waiting) do
    if not call('ZSCORE', key(hook.tenant, 'busy', hook.id), lane) then call('ZADD', lanes, NOW, lane) end
  end
  return #waiting == WOKEN_AT_ONCE and 1 or 0
end

local function disable(hook, reason)
  if hook.state == 'DISABLED' then return end
  hook.state, hook.reason, hook.update, hook.failing = 'DISABLED', reason, NOW, 0
  hook.etag = '"' .. string.sub(redis.sha1hex(hook.etag .. NOW), 1, 16) .. '"'
end

local function forget_delivery(hook, number)
  call('HDEL', key(hook.tenant, 'sends', hook.id), number)
  call('HDEL', key(hook.tenant, 'bodies', hook.id), number, 'by ' .. number)
end

-- Forgets what ended long ago, and the oldest of what is too much.
local function forget_ended(hook, a)
  for _, kind in ipairs({'done', 'given'}) do
    local ended = key(hook.tenant, kind, hook.id)
    local old = call('ZRANGEBYSCORE', ended, '-inf', NOW - a.keep_ms, 'LIMIT', 0, FORGOTTEN_AT_ONCE)
    local over = math.min(call('ZCARD', ended) - a.keep, FORGOTTEN_AT_ONCE)
    if over > #old then old = call('ZRANGE', ended, 0, over - 1) end
    for _, number in ipairs(old) do
      call('ZREM', ended, number)
      forget_delivery(hook, number)
    end
  end
end

-- Has a lane send its first one that waits, at once or when that is due.
local function go_on(hook, lane)
  local lanes, number = key(hook.tenant, 'lanes', hook.id), head_of(hook, lane)
  if not number then return call('ZREM', lanes, lane) end
  call('ZADD', lanes, math.max(NOW, load_delivery(hook, number).due), lane)
end

local function wait_for_turn(hook, delivery)
  call('ZADD', key(hook.tenant, 'waiting', hook.id), 0, placed(delivery))
  hook.pending = hook.pending + 1
end

-- What callers ask for

-- {"OK", "", webhook}, written as given; or as `recalled`; {"ERASED"}; {"CHANGED"} where it is not what it was; for one that
-- is new {"TAKEN"}, or {"FULL"} where the tenant has as many as it may.
function C.hook_put(a)
  if erased(a.tenant) then return {'ERASED'} end
  local known = recalled(a)
  if known then return known end
  local hook = load_hook(a.tenant, a.hook)
  if a.was == '' then
    if hook then return {'TAKEN'} end
    if call('ZCARD', key(a.tenant, 'hooks')) >= a.most then return {'FULL'} end
    hook = {tenant = a.tenant, id = a.hook, create = a.create, failing = 0, waking = 0, pending = 0}
    hook.from = tonumber(call('HGET', LOGS, a.tenant) or 0)
    -- While there was none, nobody read the log.
    if call('EXISTS', key(a.tenant, 'hooks')) == 0 then call('SET', key(a.tenant, 'hookread'), number_of(hook.from)) end
    call('ZADD', key(a.tenant, 'hooks'), a.create, a.hook)
  elseif not hook or hook.etag ~= a.was then
    return {'CHANGED'}
  end
  hook.about, hook.state, hook.reason, hook.etag, hook.update = a.about, a.state, a.reason, a.etag, a.update
  hook.failing, hook.waking = 0, wake(hook)
  save_hook(hook)
  schedule(hook)
  schedule_tenant(a.tenant)
  remember(a, nil, packed_hook(hook))
  return {'OK', '', packed_hook(hook)}
end

-- {"OK"}; or as `recalled`; {"CHANGED"} where it is not what it was.
function C.hook_drop(a)
  local known = recalled(a)
  if known then return known end
  local hook = not erased(a.tenant) and load_hook(a.tenant, a.hook)
  if not hook or hook.etag ~= a.was then return {'CHANGED'} end
  for _, lane in ipairs(call('ZRANGE', key(a.tenant, 'busy', a.hook), 0, -1)) do
    call('ZREM', key(a.tenant, 'hookbusy'), a.hook .. ' ' .. lane)
  end
  for _, kind in ipairs(HOOK_KEYS) do call('UNLINK', key(a.tenant, kind, a.hook)) end
  call('ZREM', key(a.tenant, 'hooks'), a.hook)
  call('ZREM', key(a.tenant, 'hookdue'), a.hook)
  schedule_tenant(a.tenant)
  remember(a, nil, packed_hook(hook))
  return {'OK', '', packed_hook(hook)}
end

function C.hook_find(a)
  local hook = load_hook(a.tenant, a.hook)
  return hook and packed_hook(hook)
end

-- The sequence of the last event that deliveries were made of, and all webhooks of the tenant.
function C.hook_all(a)
  local found = {}
  for _, id in ipairs(call('ZRANGE', key(a.tenant, 'hooks'), 0, -1)) do
    found[#found + 1] = packed_hook(load_hook(a.tenant, id))
  end
  return {tonumber(call('GET', key(a.tenant, 'hookread')) or 0), found}
end

-- Numbers and records of deliveries: of those numbers, or of all there are; and the numbers of all there are. False
-- without the webhook.
function C.hook_sends(a)
  local hook = load_hook(a.tenant, a.hook)
  if not hook then return false end
  forget_ended(hook, a)
  local sends = key(a.tenant, 'sends', a.hook)
  if a.whole == 1 then return call('HGETALL', sends) end
  return call('HKEYS', sends)
end

-- {"OK", "", delivery}; or as `recalled`; {"MISSING"}; {"DISABLED"}. What waits or ended is sent again, in its place.
function C.hook_replay(a)
  local known = recalled(a)
  if known then return known end
  local hook = not erased(a.tenant) and load_hook(a.tenant, a.hook)
  local delivery = hook and load_delivery(hook, a.number)
  if not delivery then return {'MISSING'} end
  if hook.state ~= 'ENABLED' then return {'DISABLED'} end
  local sending = call('ZSCORE', key(a.tenant, 'busy', a.hook), delivery.lane) and head_of(hook, delivery.lane) == a.number
  if not sending then
    local was = delivery.state
    delivery.state, delivery.attempts, delivery.status, delivery.error = 'PENDING', 0, 0, ''
    delivery.slot, delivery.first, delivery.due, delivery.ended = 0, 0, 0, 0
    if a.dry == 1 then return {'OK', '', packed_delivery(delivery)} end
    if was ~= 'PENDING' then
      call('ZREM', key(a.tenant, was == 'DEAD' and 'given' or 'done', a.hook), a.number)
      wait_for_turn(hook, delivery)
    end
    save_delivery(hook, delivery)
    save_hook(hook)
    if not call('ZSCORE', key(a.tenant, 'busy', a.hook), delivery.lane) then go_on(hook, delivery.lane) end
    schedule(hook)
    schedule_tenant(a.tenant)
  end
  local answer = packed_delivery(delivery)
  if a.dry ~= 1 then remember(a, nil, answer) end
  return {'OK', '', answer}
end

-- What makes deliveries, and sends them

-- Makes deliveries of events, and notes how far that got; "BEHIND", and nothing is done, where it was further already.
-- A webhook with more than `most` of them waiting is disabled, and so is every one where events are lost.
function C.hook_record(a)
  if erased(a.tenant) then return 'OK' end
  local read = key(a.tenant, 'hookread')
  if tonumber(call('GET', read) or 0) ~= a.after then return 'BEHIND' end
  call('SET', read, number_of(a.upto))
  local hooks = {}
  for _, id in ipairs(a.hooks) do hooks[id] = load_hook(a.tenant, id) end
  for _, each in ipairs(a.deliveries) do
    local hook = hooks[each[1]]
    if hook and hook.state == 'ENABLED' and each[2] > hook.from then
      if hook.pending >= a.most then
        disable(hook, string.format('more than %.0f deliveries wait for it', a.most))
      elseif call('HEXISTS', key(a.tenant, 'sends', hook.id), each[2]) == 0 then
        local delivery = {number = each[2], lane = each[3], topic = each[4], uid = each[5], time = each[6]}
        delivery.state, delivery.error = 'PENDING', ''
        for _, name in ipairs({'attempts', 'fence', 'status', 'slot', 'first', 'due', 'ended'}) do delivery[name] = 0 end
        save_delivery(hook, delivery)
        call('HSET', key(a.tenant, 'bodies', hook.id), delivery.number, each[7], 'by ' .. delivery.number, each[8])
        wait_for_turn(hook, delivery)
        call('ZADD', key(a.tenant, 'lanes', hook.id), 'NX', NOW, delivery.lane)
      end
    end
  end
  for _, hook in pairs(hooks) do
    if a.lost ~= '' then disable(hook, a.lost) end
    save_hook(hook)
    schedule(hook)
  end
  schedule_tenant(a.tenant)
  return 'OK'
end

-- The next delivery of a webhook, leased; nil where nothing is to be sent now.
local function lease_from(hook, a)
  local lanes, busy = key(hook.tenant, 'lanes', hook.id), key(hook.tenant, 'busy', hook.id)
  call('ZREMRANGEBYSCORE', busy, '-inf', NOW)
  local lane = call('ZCARD', busy) < a.of_hook and call('ZRANGEBYSCORE', lanes, '-inf', NOW, 'LIMIT', 0, 1)[1]
  local number = lane and head_of(hook, lane)
  if lane and not number then call('ZREM', lanes, lane) end
  local delivery = number and load_delivery(hook, number)
  if delivery then
    local until_ms = NOW + a.lease_ms
    delivery.attempts, delivery.fence = delivery.attempts + 1, delivery.fence + 1
    if delivery.first == 0 then delivery.first = NOW end
    save_delivery(hook, delivery)
    call('ZADD', lanes, until_ms, lane)
    call('ZADD', busy, until_ms, lane)
    call('ZADD', key(hook.tenant, 'hookbusy'), until_ms, hook.id .. ' ' .. lane)
  end
  schedule(hook, a.of_hook)
  return delivery and {hook.tenant, packed_hook(hook), number, packed_delivery(delivery),
    call('HGET', key(hook.tenant, 'bodies', hook.id), number),
    call('HGET', key(hook.tenant, 'bodies', hook.id), 'by ' .. number) or ''}
end

local function lease_of_tenant(tenant, a)
  local busy, due = key(tenant, 'hookbusy'), key(tenant, 'hookdue')
  call('ZREMRANGEBYSCORE', busy, '-inf', NOW)
  local taken
  if erased(tenant) then
    call('UNLINK', due)
  elseif call('ZCARD', busy) < a.of_tenant then
    for _, id in ipairs(call('ZRANGEBYSCORE', due, '-inf', NOW)) do
      local hook = load_hook(tenant, id)
      if not hook or hook.state ~= 'ENABLED' then call('ZREM', due, id) else taken = lease_from(hook, a) end
      if taken then break end
    end
  end
  schedule_tenant(tenant, a.of_tenant)
  return taken
end

-- Up to `slots` deliveries, tenants in turns, each with the time; then milliseconds until more are due (-1: none wait).
function C.hook_lease(a)
  local leases, more = {}, true
  while #leases < a.slots and more do
    more = false
    for _, tenant in ipairs(call('ZRANGEBYSCORE', P .. 'hooktenants', '-inf', NOW, 'LIMIT', 0, 100)) do
      local taken = #leases < a.slots and lease_of_tenant(tenant, a)
      if taken then
        more = true
        leases[#leases + 1] = taken
      end
    end
  end
  local first = call('ZRANGE', P .. 'hooktenants', 0, 0, 'WITHSCORES')
  return {NOW, leases, first[2] and math.max(0, tonumber(first[2]) - NOW) or -1}
end

-- An attempt is over: "OK", or "LOST" where somebody else has the lease by now.
function C.hook_finish(a)
  local hook = not erased(a.tenant) and load_hook(a.tenant, a.hook)
  local delivery = hook and load_delivery(hook, a.number)
  if not delivery or delivery.state ~= 'PENDING' or delivery.fence ~= a.fence then return 'LOST' end
  call('ZREM', key(a.tenant, 'busy', a.hook), delivery.lane)
  call('ZREM', key(a.tenant, 'hookbusy'), a.hook .. ' ' .. delivery.lane)
  delivery.state, delivery.status, delivery.error, delivery.slot = a.state, a.status, a.error, a.slot
  if a.state == 'PENDING' then
    delivery.due = NOW + a.delay_ms
  else
    delivery.ended, delivery.due = NOW, 0
    hook.pending = hook.pending - 1
    call('ZREM', key(a.tenant, 'waiting', a.hook), placed(delivery))
    call('ZADD', key(a.tenant, a.state == 'DEAD' and 'given' or 'done', a.hook), NOW, a.number)
  end
  save_delivery(hook, delivery)
  go_on(hook, delivery.lane)
  if a.state == 'DELIVERED' then
    local recovered = hook.failing > 0 and NOW - hook.failing >= RECOVERED_MS
    hook.waking = (recovered or hook.waking == 1) and wake(hook) or 0
    hook.failing = 0
  elseif hook.failing == 0 then
    hook.failing = NOW
  end
  if a.disable ~= '' then disable(hook, a.disable) end
  forget_ended(hook, a)
  save_hook(hook)
  schedule(hook, a.of_hook)
  schedule_tenant(a.tenant, a.of_tenant)
  return 'OK'
end

