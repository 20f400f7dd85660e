// Package orca reads what upstreams say of their load in header fields: ORCA, Open
// Request Cost Aggregation, as gRPC and Envoy have it. What it reads is hostile text, and
// what it returns is a utilisation that can be reckoned with, or nothing.
package orca

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of a header that may have a report.
const (
	Field       = "Endpoint-Load-Metrics"
	BinaryField = "Endpoint-Load-Metrics-Bin"
)

// Metrics of a report that count if none are named.
const (
	application = "application_utilization"
	cpu         = "cpu_utilization"
	memory      = "mem_utilization"
)

// longest bounds what is read of a report.
const longest = 16 << 10

// errTooLong is about reports that are not read.
var errTooLong = fmt.Errorf("longer than %d bytes", longest)

// Reader reads reports. The zero value goes by the application's own utilisation, and
// without that by the processor's.
type Reader struct {
	// metrics are what counts, the largest of them, if that is not the default.
	metrics []string
}

// ownMetrics are the parts of a report whose metrics applications name themselves.
var ownMetrics = []string{"named_metrics", "utilization"}

// NewReader makes one that goes by the largest of some metrics, such as cpu_utilization
// or named_metrics.rooms.
func NewReader(metrics ...string) (*Reader, error) {
	for _, name := range metrics {
		of, own, isOwn := strings.Cut(name, ".")
		switch {
		case name == application, name == cpu, name == memory:
		case isOwn && own != "" && (of == ownMetrics[0] || of == ownMetrics[1]):
		default:
			return nil, fmt.Errorf("%q is none of %s, %s, %s, named_metrics.<name> and utilization.<name>",
				name, application, cpu, memory)
		}
	}
	return &Reader{metrics: metrics}, nil
}

// Read returns the utilisation that a header tells; 0 if it tells none that is more
// than 0. An error says what is wrong with a report.
func (r *Reader) Read(header interface{ Get(name string) string }) (utilisation float64, err error) {
	f := r.find()
	if value := header.Get(Field); value != "" {
		if err := f.read(value); err != nil {
			return 0, fmt.Errorf("%s: %w", Field, err)
		}
	} else if value := header.Get(BinaryField); value != "" {
		if err := f.binary(value); err != nil {
			return 0, fmt.Errorf("%s: %w", BinaryField, err)
		}
	}
	return f.utilisation(), nil
}

func (r *Reader) find() *finder {
	f := &finder{names: r.metrics, first: len(r.metrics) == 0}
	if f.first {
		f.names = []string{application, cpu}
	}
	f.values = make([]float64, len(f.names))
	return f
}

// finder collects the values of some metrics. What comes twice counts as it comes last.
type finder struct {
	names  []string
	values []float64
	first  bool // the first that is more than 0 counts, not the largest
}

func (f *finder) see(name string, value float64) {
	for i, want := range f.names {
		if name == want {
			f.values[i] = value
		}
	}
}

// utilisation is what counts of what was found.
func (f *finder) utilisation() (u float64) {
	for _, value := range f.values {
		if !(value > 0) || math.IsInf(value, 1) {
			continue // also what is no number
		}
		if f.first {
			return value
		}
		u = max(u, value)
	}
	return u
}

// read reads a report that says what form it has.
func (f *finder) read(value string) error {
	if len(value) > longest {
		return errTooLong
	}
	form, rest, _ := strings.Cut(value, " ")
	switch form {
	case "TEXT":
		return f.text(rest)
	case "JSON":
		return f.json(rest)
	case "BIN":
		return f.binary(strings.TrimSpace(rest))
	}
	return errors.New("is neither TEXT, JSON nor BIN")
}

// text reads name=value, and so on.
func (f *finder) text(list string) error {
	for pair := range strings.SplitSeq(list, ",") {
		name, text, isPair := strings.Cut(strings.TrimSpace(pair), "=")
		name, text = strings.TrimSpace(name), strings.TrimSpace(text)
		if !isPair || name == "" {
			return errors.New("TEXT is no list of name=value")
		}
		value, err := number(text)
		if err != nil {
			return fmt.Errorf("a metric is no number: %w", err)
		}
		f.see(name, value)
	}
	return nil
}

// number reads a float, of which one that is out of range is infinite.
func number(text string) (float64, error) {
	value, err := strconv.ParseFloat(text, 64)
	if errors.Is(err, strconv.ErrRange) {
		return value, nil
	}
	if err != nil {
		return 0, strconv.ErrSyntax // without the text, which may be long
	}
	return value, nil
}

// json reads a report in the JSON of protobuf, in which names may have either form, and
// numbers be strings.
func (f *finder) json(text string) error {
	var report map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		return fmt.Errorf("JSON: %w", err)
	}
	for _, spelled := range slices.Sorted(maps.Keys(report)) {
		name, raw := snake(spelled), report[spelled]
		if name == ownMetrics[0] || name == ownMetrics[1] {
			if err := f.jsonMap(name, raw); err != nil {
				return err
			}
			continue
		}
		if name != application && name != cpu && name != memory {
			continue
		}
		value, err := jsonNumber(raw)
		if err != nil {
			return err
		}
		f.see(name, value)
	}
	return nil
}

func (f *finder) jsonMap(of string, raw json.RawMessage) error {
	var values map[string]json.RawMessage
	if err := json.Unmarshal(raw, &values); err != nil {
		return fmt.Errorf("JSON: %s: %w", of, err)
	}
	for name, raw := range values {
		value, err := jsonNumber(raw)
		if err != nil {
			return err
		}
		f.see(of+"."+name, value)
	}
	return nil
}

func jsonNumber(raw json.RawMessage) (float64, error) {
	text := string(raw)
	if quoted, isString := strings.CutPrefix(text, `"`); isString {
		text = strings.TrimSuffix(quoted, `"`)
	}
	value, err := number(text)
	if err != nil {
		return 0, fmt.Errorf("JSON: a metric is no number: %w", err)
	}
	return value, nil
}

// snake turns cpuUtilization into cpu_utilization.
func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// binary reads an xds.data.orca.v3.OrcaLoadReport in base64, with or without padding.
func (f *finder) binary(text string) error {
	if len(text) > longest {
		return errTooLong
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return fmt.Errorf("BIN is no base64: %w", err)
	}
	return eachField(raw, func(field protowire.Number, kind protowire.Type, value []byte) error {
		switch {
		case kind == protowire.Fixed64Type && field == 1:
			f.see(cpu, double(value))
		case kind == protowire.Fixed64Type && field == 2:
			f.see(memory, double(value))
		case kind == protowire.Fixed64Type && field == 9:
			f.see(application, double(value))
		case kind == protowire.BytesType && field == 8:
			return f.entry(ownMetrics[0], value)
		case kind == protowire.BytesType && field == 5:
			return f.entry(ownMetrics[1], value)
		}
		return nil
	})
}

// entry reads one of a map.
func (f *finder) entry(of string, raw []byte) error {
	body, n := protowire.ConsumeBytes(raw)
	if n < 0 {
		return protowire.ParseError(n)
	}
	var name string
	var value float64
	err := eachField(body, func(field protowire.Number, kind protowire.Type, raw []byte) error {
		switch {
		case kind == protowire.BytesType && field == 1:
			text, n := protowire.ConsumeBytes(raw)
			if n < 0 {
				return protowire.ParseError(n)
			}
			name = string(text)
		case kind == protowire.Fixed64Type && field == 2:
			value = double(raw)
		}
		return nil
	})
	f.see(of+"."+name, value)
	return err
}

// eachField calls do for each field of a message.
func eachField(raw []byte, do func(protowire.Number, protowire.Type, []byte) error) error {
	for len(raw) > 0 {
		field, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return fmt.Errorf("BIN: %w", protowire.ParseError(n))
		}
		raw = raw[n:]
		size := protowire.ConsumeFieldValue(field, kind, raw)
		if size < 0 {
			return fmt.Errorf("BIN: %w", protowire.ParseError(size))
		}
		if err := do(field, kind, raw[:size]); err != nil {
			return err
		}
		raw = raw[size:]
	}
	return nil
}

// double reads eight bytes, which a field of this type has.
func double(raw []byte) float64 {
	bits, _ := protowire.ConsumeFixed64(raw)
	return math.Float64frombits(bits)
}
