-- wrk sends the forms of a file, one after the other, over and over; what stands behind a tab as X-Forwarded-For.
-- The file is named by FORMS; the number of answers that are not 200 is printed.
local forms, next_form = {}, 0
refused = 0

function init(_)
  for line in io.lines(os.getenv("FORMS")) do
    local form, source = line:match("^([^\t]*)\t?(.*)$")
    local headers = { ["Content-Type"] = "application/x-www-form-urlencoded" }
    if source ~= "" then
      headers["X-Forwarded-For"] = source
    end
    forms[#forms + 1] = wrk.format("POST", "/token", headers, form)
  end
end

function request()
  next_form = next_form + 1
  return forms[(next_form - 1) % #forms + 1]
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function response(status, _, _)
  if status ~= 200 then
    refused = refused + 1
  end
end

function done(summary, latency, _)
  local total = 0
  for _, thread in ipairs(threads) do
    total = total + thread:get("refused")
  end
  print(string.format(
    "RESULT %d %d %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), total, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
