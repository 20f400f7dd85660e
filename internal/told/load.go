package told

import (
	"encoding/json"
	"net/http"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/orca"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Reports takes in what the upstreams of a pool report of their load.
type Reports struct {
	table  *upstream.Table
	reader *orca.Reader
	logger *zap.Logger
}

// Attach has newcomers of a pool go by what its upstreams report. Without a configuration
// nobody does.
func (l *LoadReport) Attach(p *upstream.Pool, t *upstream.Table, logger *zap.Logger) (*Reports, error) {
	if l == nil {
		return nil, nil
	}
	reader, err := orca.NewReader(l.Metrics...)
	if err != nil {
		return nil, err
	}
	key, err := json.Marshal(l.Metrics)
	if err != nil {
		return nil, err
	}
	p.GoesByLoad = true
	p.Joins = append(p.Joins, func(e *upstream.Endpoint) { t.WatchLoad(e, string(key)) })
	p.Leaves = append(p.Leaves, t.UnwatchLoad)
	return &Reports{table: t, reader: reader, logger: logger}, nil
}

// Heard takes in the header of an answer.
func (r *Reports) Heard(e *upstream.Endpoint, header http.Header) {
	if r == nil || e.Load == nil {
		return
	}
	utilisation, err := r.reader.Read(header)
	if err != nil {
		if line := r.logger.Check(zapcore.DebugLevel, "an upstream's report of its load is not used"); line != nil {
			line.Write(zap.String("address", e.Host.Address), zap.String("error", printable.Text(err.Error())))
		}
		return
	}
	r.table.Reported(e.Load, utilisation)
}
