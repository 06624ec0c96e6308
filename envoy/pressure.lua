-- Refuses a share of the calls of a method whose service refuses many: a service that has to say no to ten times what it can do
-- has no time left for what it can. Of Google's book on SRE, "Handling Overload", client-side throttling: in the last seconds
-- `asked` calls came and `taken` were let in by the service; refused here is (asked - 1.2 * taken) of asked. So the service goes
-- on hearing of somewhat more than it takes, and the last refusal tells when the pressure has gone.
--
-- Each worker thread learns by itself, from the header that a service's refusal carries (services/mesh/admission.py), and that of
-- a call for which no place was left under way (edge_refusals.py). Who asks for too much, or without a right, never comes here:
-- these were refused before.

local SHED, GIVEN = "x-ragweave-overloaded", "x-ragweave-timeout"
local DEADLINE_EXCEEDED, UNAVAILABLE = "4", "14"
local CODES = {"CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
  "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
  "UNAUTHENTICATED"}
local HEARD = 1.2 -- times what is taken that a service goes on hearing of
local NEWS = 2 -- seconds for which a refusal by the service counts: then it may be asked for all again
local ALWAYS = 10 -- calls refused in the last seconds that do not count yet
local FADE = 0.7 -- of what was counted, by the second

local counted = {} -- by gRPC path, of which the routes know so many

local function counts(path)
  local now, each = os.time(), counted[path]
  if not each then
    each = {asked = 0, taken = 0, at = now, shed_at = 0}
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
  if too_many > 0 and each.at - each.shed_at <= NEWS and math.random() * (each.asked + 1) < too_many then
    each.asked = each.asked + 1
    metadata:set("ragweave.edge", "overloaded", path)
    return handle:respond({[":status"] = "503"}, "")
  end
  metadata:set("ragweave.pressure", "path", path)
  -- By which the service knows how long a call has waited before anybody looked at it.
  local timeout = handle:headers():get("grpc-timeout")
  if timeout then handle:headers():replace(GIVEN, timeout) end
end

function envoy_on_response(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  local noted = metadata:get("ragweave.pressure")
  if not noted then return end
  local headers = handle:headers()
  local shed, code = headers:get(SHED), headers:get("grpc-status")
  -- For the log: of a REST call the transcoder takes it away, and Envoy would guess one from the HTTP status.
  if code and CODES[tonumber(code)] then metadata:set("ragweave.answer", "code", CODES[tonumber(code)]) end
  -- What is late, or never reached the service, tells nothing of what it takes; of REST only Envoy itself says another than 200.
  local reached = headers:get(":status") == "200" and code ~= DEADLINE_EXCEEDED and code ~= UNAVAILABLE
  if not shed and not reached then return end
  local each = counts(noted.path)
  each.asked = each.asked + 1
  if shed then
    each.shed_at = each.at
  else
    each.taken = each.taken + 1
  end
end
