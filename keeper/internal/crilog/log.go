package crilog

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Log is a log file that several streams append to. All methods may run at the same time; nil is a log that forgets.
type Log struct {
	mu      sync.Mutex
	file    *os.File
	torn    bool // the file ends amid a line
	lost    int64
	lostWhy string
}

// NewLog owns file, opened O_APPEND; nil for none yet.
func NewLog(file *os.File) *Log { return &Log{file: file} }

// SetFile makes later lines go to file, which it owns, and closes the one before. A line is never split between the two, as each is written at once.
func (l *Log) SetFile(file *os.File) {
	l.mu.Lock()
	old := l.file
	l.file, l.torn = file, false
	l.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

// File is the present file; for the hand-over to a new keeper, while nobody writes.
func (l *Log) File() *os.File {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file
}

// Close closes the file; what is written later is forgotten.
func (l *Log) Close() { l.SetFile(nil) }

// Write appends whole lines. A log that cannot be written (the disk is full) must neither stop nor kill the container: what does
// not fit is dropped and counted, and the count is noted in the log when it works again.
func (l *Log) Write(lines []byte) {
	if len(lines) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if l.lost > 0 && !l.noteLoss() {
		l.drop(lines, nil)
		return
	}
	n, err := l.file.Write(lines)
	if err == nil {
		return
	}
	whole := bytes.LastIndexByte(lines[:n], '\n') + 1
	l.mend(int64(n - whole))
	l.drop(lines[whole:], err)
}

// mend takes back the beginning of a line that was cut off by a full disk. Only this process writes to the file.
func (l *Log) mend(excess int64) {
	if excess == 0 {
		return
	}
	l.torn = true
	if info, err := l.file.Stat(); err == nil && info.Mode().IsRegular() && info.Size() >= excess {
		l.torn = l.file.Truncate(info.Size()-excess) != nil
	}
}

func (l *Log) drop(lines []byte, err error) {
	l.lost += int64(bytes.Count(lines, []byte{'\n'}))
	var errno syscall.Errno
	if errors.As(err, &errno) {
		l.lostWhy = errno.Error()
	} else if err != nil {
		l.lostWhy = err.Error()
	}
}

// noteLoss writes how much was dropped, and tells whether the log works again.
func (l *Log) noteLoss() bool {
	var note []byte
	if l.torn {
		note = append(note, '\n')
	}
	note = time.Now().UTC().AppendFormat(note, timeFormat)
	note = append(note, " stderr F shimd: "...)
	note = strconv.AppendInt(note, l.lost, 10)
	note = append(note, " log lines were lost here, writing the log: "...)
	note = append(note, l.lostWhy...)
	note = append(note, '\n')
	n, err := l.file.Write(note)
	if err != nil {
		l.mend(int64(n))
		return false
	}
	l.lost, l.lostWhy, l.torn = 0, "", false
	return true
}
