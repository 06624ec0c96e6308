-- Labels REST streams as what they are: the transcoder says application/json, though they are a message a line. Of routes of
-- streaming methods alone, since every answer it sees costs time.

function envoy_on_response(handle)
  local headers = handle:headers()
  if headers:get(":status") == "200" and (headers:get("content-type") or ""):find("^application/json") then
    headers:replace("content-type", "application/x-ndjson")
  end
end
