-- Gives REST the status that the state of GetHealth stands for: the answer is the same message whatever it is, and a monitor looks at
-- the status alone. At that method's route only.

function envoy_on_response(handle)
  local headers = handle:headers()
  local state = headers:get("x-health")
  headers:remove("x-health")
  if state == "DOWN" and (headers:get("content-type") or ""):find("^application/json") then
    headers:replace(":status", "503")
  end
end
