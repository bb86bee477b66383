// The first 64 tokens of Spec-Bench's prompt 131 in two vocabularies, each token ended by a bar.
#pragma once

inline constexpr const char* kSmolLM2 =
    "Eval|uate| the| following| movie| reviews| on| a| scale| of| |1| to| |5|,| with| |1|"
    " being| very| negative|,| |3| being| neutral|,| and| |5| being| very| positive|:|\n|"
    "1|.| This| movie| released| on| Nov|.| |1|8|,| |2|0|1|9|,| was| phenomenal|.| The|"
    " cin|emat|ography|,| the| acting|";

inline constexpr const char* kGemma3 =
    "Evaluate| the| following| movie| reviews| on| a| scale| of| |1| to| |5|,| with| |1|"
    " being| very| negative|,| |3| being| neutral|,| and| |5| being| very| positive|:|\n|"
    "1|.| This| movie| released| on| Nov|.| |1|8|,| |2|0|1|9|,| was| phenomenal|.| The|"
    " cinematography|,| the| acting|,| the| plot|";
