package dashboard

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	// longestBody bounds what is read of a request, in bytes.
	longestBody = 1 << 14
	// closeEach is the time for one tunnel when many are closed.
	closeEach = time.Millisecond
)

// Action is what an operator wants.
type Action struct {
	// Count is how many tunnels the page has shown. If there are a tenth more, it asks
	// again.
	Count int `json:"count"`

	// Upstream is an address. State is what it gets, and Seen the state that the page
	// has shown: if it is another one, somebody else was faster.
	Upstream string `json:"upstream,omitempty"`
	State    string `json:"state,omitempty"`
	Seen     string `json:"seen,omitempty"`
	// Period is the time over which tunnels are evicted, in seconds; zero: the
	// evict_period of their handler.
	Period float64 `json:"period,omitempty"`

	// Search are the words by which tunnels were found that are to be closed. All closes
	// all there are; it has neither Search nor Upstream beside it.
	Search string `json:"search,omitempty"`
	All    bool   `json:"all,omitempty"`
}

// Acted is what has come of it.
type Acted struct {
	// Tunnels is how many it is about.
	Tunnels int `json:"tunnels"`
	// Problem is why a state holds here only, if it does.
	Problem string `json:"problem,omitempty"`
}

// act does what an operator wants.
func (h *Handler) act(w http.ResponseWriter, r *http.Request) error {
	if err := h.checkAction(r); err != nil {
		return err
	}
	var a Action
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, longestBody))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return refuse(http.StatusBadRequest, "the body is not the JSON object that belongs here: %w", err)
	}
	do := map[string]func(*http.Request, *Action) (Acted, error){
		"POST state": h.setState, "POST close": h.closeThese, "DELETE tunnel": h.closeOne,
	}[r.Method+" "+resource(r)]
	if do == nil {
		return refuse(http.StatusNotFound, "there is nothing to be changed here")
	}
	acted, err := do(r, &a)
	if err != nil {
		return err
	}
	return answer(w, r, http.StatusOK, acted)
}

// setState gives an upstream a state.
func (h *Handler) setState(r *http.Request, a *Action) (acted Acted, err error) {
	switch a.State {
	case upstream.Ready, upstream.Drain, upstream.Maint, upstream.Evict:
	default:
		return acted, refuse(http.StatusBadRequest, "state is ready, drain, maint or evict, not %q", a.State)
	}
	if !(a.Period >= 0 && a.Period <= admin.LongestPeriod.Seconds()) { // NaN is neither
		return acted, refuse(http.StatusBadRequest, "period is a number of seconds, up to a day")
	}
	u, known := h.board.backend.Upstream(a.Upstream)
	switch {
	case !known:
		return acted, refuse(http.StatusConflict, "there is no upstream %q any more", a.Upstream)
	case a.Seen != u.State:
		return acted, refuse(http.StatusConflict, "its state is %s now, %s", u.State, setBy(&u))
	}
	if err := checkCount(u.Tunnels, a.Count); err != nil && a.State == upstream.Evict {
		return acted, err
	}
	by := actor(r)
	h.logger.Info("operator sets the state of an upstream", zap.String("upstream", printable.Text(a.Upstream)),
		zap.String("state", a.State), zap.Int("tunnels", u.Tunnels), zap.String("by", by))
	_, problem := h.board.backend.SetState(r.Context(), a.Upstream,
		upstream.State{State: a.State, By: by, At: time.Now(), Period: a.Period})
	acted.Tunnels = u.Tunnels
	if problem != nil {
		acted.Problem = shown(problem.Error())
	}
	return acted, nil
}

func setBy(u *admin.Upstream) string {
	if u.By == "" {
		return "which it was not when you looked"
	}
	return "set by " + shown(u.By)
}

// checkCount refuses what would cut a tenth more tunnels than the page has shown.
func checkCount(now, shown int) error {
	if shown < 0 {
		return refuse(http.StatusBadRequest, "count is how many tunnels you have seen, not %d", shown)
	}
	if more := now - shown; more > 0 && more >= (shown+9)/10 {
		return refuse(http.StatusConflict, "there are %d tunnels now, not %d", now, shown)
	}
	return nil
}

// closeThese closes the tunnels that a search finds, or all if that is what is said.
func (h *Handler) closeThese(r *http.Request, a *Action) (acted Acted, err error) {
	if chosen := strings.TrimSpace(a.Search) != "" || a.Upstream != ""; chosen == a.All {
		return acted, refuse(http.StatusBadRequest, "say which tunnels by search or upstream, or say all")
	}
	live := h.board.find(a.Search, a.Upstream)
	if err := checkCount(len(live), a.Count); err != nil {
		return acted, err
	}
	h.logger.Info("operator closes tunnels", zap.Int("tunnels", len(live)), zap.String("search", shown(a.Search)),
		zap.String("upstream", shown(a.Upstream)), zap.Bool("all", a.All), zap.String("by", actor(r)))
	h.board.backend.Close(live, time.Duration(len(live))*closeEach, frame.StatusGoingAway, "")
	return Acted{Tunnels: len(live)}, nil
}

// closeOne closes the tunnel that the query names.
func (h *Handler) closeOne(r *http.Request, _ *Action) (acted Acted, err error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return acted, refuse(http.StatusBadRequest, "reading the parameters: %w", err)
	}
	t, ok := h.board.backend.Tunnel(query.Get("id"))
	if !ok {
		return acted, refuse(http.StatusConflict, "there is no tunnel %q any more", query.Get("id"))
	}
	h.logger.Info("operator closes a tunnel", zap.String("tunnel", t.ID()), zap.String("by", actor(r)))
	t.Close(frame.StatusGoingAway, "")
	return Acted{Tunnels: 1}, nil
}
