-- Headers of gRPC that a REST call carries and its server could not read: at the routes that match them alone, since to look for
-- them in every request costs more than they are worth.

function envoy_on_request(handle)
  local headers = handle:headers()
  local timeout = headers:get("grpc-timeout")
  if timeout and (#timeout > 9 or not timeout:find("^%d+[HMSmun]$")) then
    local problem = "expected up to 8 digits and one of H, M, S, m, u, n"
    local metadata = handle:streamInfo():dynamicMetadata()
    metadata:set("ragweave.edge", "field", "grpc-timeout")
    metadata:set("ragweave.edge", "problem", problem)
    return handle:respond({[":status"] = "400"}, "grpc-timeout: " .. problem)
  end
  headers:remove("grpc-encoding")
  handle:clearRouteCache()
end
