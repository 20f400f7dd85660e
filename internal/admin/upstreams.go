package admin

import (
	"net/http"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// LongestName bounds who may say that he has set a state, in bytes.
const LongestName = 128

// shortestPeriod stands for no time, in seconds: in a state, zero means the
// default.
const shortestPeriod = 1e-6

// Upstream is what operators see of an upstream.
type Upstream struct {
	// Address is host and port, with the network in front if it is not TCP.
	Address string `json:"address"`
	// State is ready, drain (no tunnels for newcomers), maint (none for anybody), evict
	// (the present ones end, too) or, if no operator has said anything, removed: no loaded configuration has
	// it, so there are no new tunnels, and the present ones end over their
	// evict_period.
	State string `json:"state"`
	// Tunnels counts those that are open, and handshakes under way.
	Tunnels int `json:"tunnels"`
	// Handshakes counts those under way, and HandshakesLimit is how many may be: the lowest
	// max_handshakes, or what auto has found out. It is left out without a limit.
	Handshakes      int `json:"handshakes,omitempty"`
	HandshakesLimit int `json:"handshakes_limit,omitempty"`
	// Queued counts handshakes that wait because this upstream, like the others
	// of their handler, is at max_tunnels, max_handshakes or handshake_rate, or because they
	// belong there.
	Queued int `json:"queued,omitempty"`
	// Failing tells that handshakes have failed lately, so that it gets tunnels
	// only if no other upstream of the handler can.
	Failing bool `json:"failing,omitempty"`
	// Doubtful tells that others have answered what it has not, so that it gets newcomers
	// only if no other upstream of its kind can.
	Doubtful bool `json:"doubtful,omitempty"`
	// Health is what active checks say: up, down if one of them says so, or
	// unchecked. HealthError is what was wrong last, and Checked when the last
	// probe was.
	Health      string    `json:"health"`
	HealthError string    `json:"health_error,omitempty"`
	Checked     time.Time `json:"checked,omitzero"`
	// Agent is what the agent of the address has said of it, in HAProxy's words, AgentReason
	// why, and AgentError what was wrong with its last answer, or that there was none.
	Agent       string `json:"agent,omitempty"`
	AgentReason string `json:"agent_reason,omitempty"`
	AgentError  string `json:"agent_error,omitempty"`
	// Load is the utilisation that the address has reported last, of which 1 is all; it is
	// left out if there was no report in the last three minutes.
	Load float64 `json:"load,omitempty"`
	// Configured tells whether a loaded configuration has the address itself, or
	// has it found by a source.
	Configured bool `json:"configured"`
	// Source is the module that has found the address, if one has.
	Source string `json:"source,omitempty"`
	// By is who has set the state, and Since when. Expires is when it ends.
	By      string    `json:"by,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	// Period is the time over which an operator has the tunnels ended, in seconds. It is
	// left out if the configuration says it (evict_period), or they are not ended.
	Period float64 `json:"period,omitempty"`
}

// UpstreamList is the answer with all upstreams.
type UpstreamList struct {
	Upstreams []Upstream `json:"upstreams"`
}

func (a *server) listUpstreams(w http.ResponseWriter, r *http.Request) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, UpstreamList{a.Upstreams()})
}

// StateRequest gives an upstream a state.
type StateRequest struct {
	// Address is that of an upstream in the list.
	Address string `json:"address"`
	// State is ready, drain, maint or evict.
	State string `json:"state"`
	// Period is the time over which tunnels are evicted, in seconds.
	Period *float64 `json:"period,omitempty"`
	// ExpiresIn is the time after which the upstream is ready again, in seconds.
	ExpiresIn *float64 `json:"expires_in,omitempty"`
	// By is who wants that. Without it, it is where the request comes from.
	By string `json:"by,omitempty"`
}

// StateAnswer is the upstream after its state was set.
type StateAnswer struct {
	Upstream

	// Stored tells whether the state was written to the storage. If not, it
	// holds for this process, which goes on trying, and Problem says why.
	Stored  bool   `json:"stored"`
	Problem string `json:"problem,omitempty"`
	// Local tells that the address means another backend on every machine, so that
	// other instances do not take the state over.
	Local bool `json:"local,omitempty"`
}

func (a *server) setState(w http.ResponseWriter, r *http.Request) error {
	var req StateRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if req.By == "" {
		req.By = r.RemoteAddr
	}
	s, err := req.state(time.Now())
	if err != nil {
		return err
	}
	if _, known := a.Upstream(req.Address); !known {
		return refuse(http.StatusNotFound, "there is no upstream %q; GET /websocket_proxy/upstreams lists them",
			req.Address)
	}
	local, problem := a.SetState(r.Context(), req.Address, s)
	answer := StateAnswer{Stored: problem == nil, Local: local}
	answer.Upstream, _ = a.Upstream(req.Address)
	if problem != nil {
		answer.Problem = problem.Error()
	}
	return writeJSON(w, http.StatusOK, answer)
}

// state checks the request.
func (req *StateRequest) state(now time.Time) (s upstream.State, err error) {
	s = upstream.State{State: req.State, By: req.By, At: now}
	switch req.State {
	case upstream.Ready, upstream.Drain, upstream.Maint, upstream.Evict:
	default:
		return s, refuse(http.StatusBadRequest, "state is ready, drain, maint or evict, not %q", req.State)
	}
	if len(s.By) > LongestName || !printable.Is(s.By) {
		return s, refuse(http.StatusBadRequest, "by is a name of up to %d bytes, without control characters", LongestName)
	}
	if req.Period != nil {
		if req.State != upstream.Evict {
			return s, refuse(http.StatusBadRequest, "period belongs to the state evict")
		}
		if _, err := seconds("period", *req.Period, LongestPeriod); err != nil {
			return s, err
		}
		s.Period = max(*req.Period, shortestPeriod)
	}
	if req.ExpiresIn != nil {
		if req.State == upstream.Ready {
			return s, refuse(http.StatusBadRequest, "ready does not expire; expires_in belongs to drain, maint and evict")
		}
		after, err := seconds("expires_in", *req.ExpiresIn, upstream.LongestExpiry)
		if err != nil {
			return s, err
		}
		if after == 0 {
			return s, refuse(http.StatusBadRequest, "expires_in is more than 0; without it the state stays")
		}
		s.Expires = now.Add(after)
	}
	return s, nil
}
