-- Refuses a share of the calls of a method whose service refuses many: a service that has to say no to ten times what it can do
-- has no time left for what it can. Of Google's book on SRE, "Handling Overload", client-side throttling: in the last seconds
-- `asked` calls came and `taken` were let in by the service; refused here is (asked - 2 * taken) of asked. So the service goes
-- on hearing of about twice what it takes, which tells when the pressure has gone.
--
-- Each worker thread learns by itself, from the header that a service's refusal carries (interceptors/admission.py). Who asks
-- for too much, or without a right, never comes here: these were refused before.

local SHED = "x-ragweave-overloaded"
local DEADLINE_EXCEEDED, UNAVAILABLE = "4", "14"
local HEARD = 2 -- times what is taken that a service goes on hearing of
local ALWAYS = 10 -- calls refused in the last seconds that do not count yet
local FADE = 0.7 -- of what was counted, by the second

local counted = {} -- by gRPC path, of which the routes know so many

local function counts(path)
  local now, each = os.time(), counted[path]
  if not each then
    each = {asked = 0, taken = 0, at = now}
    counted[path] = each
  elseif now ~= each.at then
    local faded = FADE ^ math.max(1, now - each.at)
    each.asked, each.taken, each.at = each.asked * faded, each.taken * faded, now
  end
  return each
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path")
  local each = counts(path)
  local too_many = each.asked - HEARD * each.taken - ALWAYS
  local metadata = handle:streamInfo():dynamicMetadata()
  if too_many > 0 and math.random() * (each.asked + 1) < too_many then
    each.asked = each.asked + 1
    metadata:set("ragweave.edge", "overloaded", path)
    return handle:respond({[":status"] = "503"}, "")
  end
  metadata:set("ragweave.pressure", "path", path)
end

function envoy_on_response(handle)
  local noted = handle:streamInfo():dynamicMetadata():get("ragweave.pressure")
  if not noted then return end
  local headers = handle:headers()
  local shed, code = headers:get(SHED), headers:get("grpc-status")
  -- What is late, or never reached the service, tells nothing of what it takes.
  if not shed and (code == DEADLINE_EXCEEDED or code == UNAVAILABLE) then return end
  local each = counts(noted.path)
  each.asked = each.asked + 1
  if shed then
    headers:remove(SHED)
  else
    each.taken = each.taken + 1
  end
end
