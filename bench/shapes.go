package main

import (
	"context"
	"fmt"
	"io"
)

// recordSize is the largest record of TLS, RFC 8446 section 5.1.
const recordSize = 16 << 10

// shape is how a client forms TLS records of its frames.
type shape struct {
	name  string
	frame int // bytes of payload
	// write sends one frame; those of small frames send several, see batch.
	write func(io.Writer, []byte) error
	// batch is how many frames one write has; 0 for one.
	batch int
}

// shapes are what clients of TLS do that differs from records as large as they can be.
// crypto/tls makes a record of each Write, if it fits.
var shapes = []shape{
	// As libraries that write header and payload one after the other.
	{name: "64 KiB frames, header in a record of its own", frame: 64 << 10, write: writeApart},
	// As Go and others in the beginning of a connection, until they know that it is fast.
	{name: "64 KiB frames, 1 KiB records", frame: 64 << 10, write: writeKiBs},
	// As whoever collects messages before sending.
	{name: "64 B frames, 16 KiB records", frame: smallSize, write: writeWhole, batch: recordSize / smallFrame},
}

// smallFrame is a masked frame of smallSize bytes: RFC 6455 section 5.2.
const smallFrame = smallSize + 2 + len(clientMask)

// shapeBulkShare is the part of other bulk transfers that those of shapes move.
const shapeBulkShare = 4

// largestShape is the most that one write of a shape carries.
const largestShape = 64 << 10

// shapeMeasurements list uploads in each shape.
func shapeMeasurements() []measurement {
	var list []measurement
	for _, sh := range shapes {
		list = append(list, measurement{
			rows:     []row{{"CPU per GiB to upstream, " + sh.name, "s"}},
			cpuBound: true,
			run: func(ctx context.Context, s subject) ([]float64, error) {
				return measureShape(ctx, s, sh)
			},
		})
	}
	return list
}

// measureShape returns CPU seconds per GiB that clients send in frames and records of
// that shape.
func measureShape(ctx context.Context, s subject, sh shape) ([]float64, error) {
	s.bulkBytes /= shapeBulkShare
	if s.target.tls != nil {
		// Otherwise crypto/tls begins with small ones itself.
		s.target.tls = s.target.tls.Clone()
		s.target.tls.DynamicRecordSizingDisabled = true
	}
	batch := max(1, sh.batch)
	share := s.bulkShare(sh.frame * batch)
	path := fmt.Sprintf("%s?bytes=%d", sinkPath, share)
	frames := sh.frames()
	return s.measureBulk(ctx, path, share, func(c *client) error {
		for range share / int64(sh.frame*batch) {
			if err := sh.write(c.conn, frames); err != nil {
				return err
			}
		}
		_, err := c.receive() // that all has arrived
		return err
	})
}

// frames returns what one write sends.
func (sh shape) frames() []byte {
	var frames []byte
	m := newMessage(sh.frame)
	for range max(1, sh.batch) {
		frames = append(frames, m.frame...)
	}
	return frames
}

func writeWhole(w io.Writer, frames []byte) error {
	_, err := w.Write(frames)
	return err
}

// writeApart writes the header of one frame longer than 64 KiB - 1 and then its payload.
func writeApart(w io.Writer, frame []byte) error {
	const header = 2 + 8 + len(clientMask)
	if _, err := w.Write(frame[:header]); err != nil {
		return err
	}
	_, err := w.Write(frame[header:])
	return err
}

// writeKiBs writes a KiB at a time.
func writeKiBs(w io.Writer, frame []byte) error {
	for len(frame) > 0 {
		n, err := w.Write(frame[:min(len(frame), 1<<10)])
		if err != nil {
			return err
		}
		frame = frame[n:]
	}
	return nil
}
