package admin

import (
	"net/http"
	"strconv"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
)

// closeEach is the time for one tunnel when many are closed by one call and no
// time is given.
const closeEach = time.Millisecond

// CloseRequest says which tunnels to close and how.
type CloseRequest struct {
	Selection

	// Code and Reason are for the clients' Close frames. The default is 1001
	// without a reason.
	Code   *int   `json:"code"`
	Reason string `json:"reason"`
	// Period is the time over which they are closed, in seconds. Without it,
	// each takes a millisecond.
	Period *float64 `json:"period"`
}

// CloseAnswer tells how many tunnels are being closed, over how many seconds.
type CloseAnswer struct {
	Closing int     `json:"closing"`
	Period  float64 `json:"period"`
}

// closeFrame checks the status and the text for Close frames.
func closeFrame(code *int, text string) (uint16, error) {
	if problem := frame.CloseReasonProblem(text); problem != "" {
		return 0, refuse(http.StatusBadRequest, "reason: %s", problem)
	}
	if code == nil {
		return frame.StatusGoingAway, nil
	}
	if problem := frame.CloseCodeProblem(*code); problem != "" {
		return 0, refuse(http.StatusBadRequest, "code: %s", problem)
	}
	return uint16(*code), nil
}

func (a *server) closeTunnel(w http.ResponseWriter, r *http.Request) error {
	query, err := readQuery(r, "code", "reason")
	if err != nil {
		return err
	}
	var code *int
	if s := query.Get("code"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			return refuse(http.StatusBadRequest, "code is a number, not %q", s)
		}
		code = &n
	}
	status, err := closeFrame(code, query.Get("reason"))
	if err != nil {
		return err
	}
	t, err := a.pathTunnel(r)
	if err != nil {
		return err
	}
	t.Close(status, query.Get("reason"))
	return writeJSON(w, http.StatusAccepted, CloseAnswer{Closing: 1})
}

func (a *server) closeTunnels(w http.ResponseWriter, r *http.Request) error {
	var req CloseRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if err := req.Parse(); err != nil {
		return err
	}
	code, err := closeFrame(req.Code, req.Reason)
	if err != nil {
		return err
	}
	period := time.Duration(-1)
	if req.Period != nil {
		if period, err = seconds("period", *req.Period, LongestPeriod); err != nil {
			return err
		}
	}
	tunnels := a.Tunnels(&req.Filter)
	if period < 0 {
		period = time.Duration(len(tunnels)) * closeEach
	}
	answer := CloseAnswer{Closing: len(tunnels), Period: period.Seconds()}
	a.Close(tunnels, period, code, req.Reason)
	return writeJSON(w, http.StatusAccepted, answer)
}
