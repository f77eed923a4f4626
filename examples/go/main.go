// Writes ten greetings and reads them back, with franz-go: go run . [TOPIC]
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	greetings = 10
	wait      = 30 * time.Second
)

func main() {
	topic := "greetings"
	if len(os.Args) > 1 {
		topic = os.Args[1]
	}
	bootstrap := os.Getenv("BOOTSTRAP")
	if bootstrap == "" {
		bootstrap = "localhost:9092"
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := write(ctx, bootstrap, topic); err != nil {
		log.Fatal(err)
	}
	if err := read(ctx, bootstrap, topic); err != nil {
		log.Fatal(err)
	}
}

func write(ctx context.Context, bootstrap, topic string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.AllowAutoTopicCreation())
	if err != nil {
		return err
	}
	defer client.Close()
	records := make([]*kgo.Record, greetings)
	for n := range records {
		records[n] = &kgo.Record{
			Topic: topic,
			Key:   []byte(fmt.Sprintf("key %d", n)),
			Value: []byte(fmt.Sprintf("hello %d", n)),
		}
	}
	return client.ProduceSync(ctx, records...).FirstErr() // on disk, or an error
}

func read(ctx context.Context, bootstrap, topic string) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap),
		kgo.ConsumerGroup("greeters-go"),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	for count := 0; count < greetings; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("only %d records: %w", count, err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			fmt.Printf("read %d@%d: %s = %s\n", record.Partition, record.Offset, record.Key, record.Value)
			count++
		})
	}
	return client.CommitUncommittedOffsets(ctx) // the next run begins behind these
}
